"""Conversations and preference pairs from rows of any layout. Start at `read`; what a layout is: `layouts`.

layouts.py       how rows name their fields, and which layout a file has
messages.py      values of a row to Messages, checked
instructions.py  one question and one answer: Alpaca, Dolly, prompt and completion, question and answer
threads.py       many turns: ShareGPT, transcripts of HH-RLHF, trees of OpenAssistant
preferences.py   two answers to a prompt
read.py          files to conversations and pairs
sides.py         training and validation
flaws.py         what may be wrong with a conversation that can be read
languages.py     an answer in another language than its question
repeats.py       rows that repeat earlier ones
write.py         conversations and pairs as rows in one form
"""

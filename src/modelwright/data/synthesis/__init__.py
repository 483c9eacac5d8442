"""Data that a model writes, without the model: what it is asked, what is read from its answers, what is kept.

method.py     what the station and its methods say to each other; start here
tasks.py      prompts out of conversations, each once
answers.py, rationales.py           answers to prompts that there are already
growth.py     requests after the manner of seed tasks (Self-Instruct)
rewriting.py  a request in other words, mended, or harder (Evol-Instruct)
personas.py   requests of many people, about many things, at several levels
spread.py     a grid of coordinates, drawn evenly; how much of it was reached
taken.py      requests that a method wrote, and the answers to them
requests.py   which requests are worth an answer
novelty.py    is a request like one that is there already? (ROUGE-L)
lists.py      an answer that should be a list -> its items
quoting.py    texts that nobody vouches for within a prompt, and how they are read back
choosing.py   which of several answers to one question are kept
rows.py       which rows are worth learning
rubric.py     a judge's question, and its score
record.py     what a row says of itself
funnel.py     how many rows were left after each step, and what the others were like
journal.py    the answers that there are, so that nothing is asked twice
endpoint.py, http.py, replies.py    a writer behind HTTP
"""

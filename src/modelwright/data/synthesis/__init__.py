"""Data that a model writes, without the model: what it is asked, what is read from its answers, what is kept.

quoting.py    texts that nobody vouches for within a prompt, and how they are read back
lists.py      an answer that should be a list -> its items
novelty.py    is a request like one that is there already? (ROUGE-L)
growth.py     requests after the manner of seed tasks (Self-Instruct)
rewriting.py  a request in other words, mended, or harder (Evol-Instruct)
spread.py     a grid of coordinates, drawn evenly; how much of it was reached
personas.py   requests of many people, about many things, at several levels
requests.py   which requests are worth an answer
rows.py       which rows are worth learning
rubric.py     a judge's question, and its score
funnel.py     how many rows were left after each step, and what the others were like
"""

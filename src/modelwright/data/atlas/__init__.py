"""The embedded corpus: a small true world in tables, and the text that is generated from it.

Start at `world.py` (the tables, typed), then `facts.py` (questions with known answers), then
`documents.py` (pre-training text). Because the truth is known, what a model has learnt, invented or
merely memorised can be measured exactly.
"""

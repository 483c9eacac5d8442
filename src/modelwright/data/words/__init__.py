"""Words and sentences, and what filters count over them.

`segment.py` is the way in. `plain.py` says what a word is; `words.cpp` and `measures.cpp` do the same,
compiled.
"""

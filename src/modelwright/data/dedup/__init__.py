"""Finding what a corpus says twice: equal texts, near duplicates, repeated passages, repeated lines.

    exact.py      equal texts, by their hashes
    minhash.py    signatures that estimate how alike two texts are; normal.py, what they look at
    cluster.py    signatures of a whole corpus -> clusters of near duplicates; report.py, a look at them
    substring.py  passages of so many bytes that stand elsewhere too; suffix_array.py, its reference
    lines.py      lines, paragraphs and runs of sentences that stand elsewhere too
    ranges.py     what is to be cut from a text, and how
    sorting.py    sorts more records than memory holds: what all of the above stand on

Each looks at units, the parts of a corpus that worker processes have read, in their order, and answers
with what to keep or to cut. What stands first in the corpus stays. No result depends on how many units
or workers there were, and memory is bounded by a setting.
"""

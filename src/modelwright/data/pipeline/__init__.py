"""From raw text to a corpus, in three phases over units of input.

    clean     each unit alone: read, cut, filter, mask; write what is left, with hashes and signatures
    resolve   over all units: which documents repeat earlier ones, exactly or nearly
    write     each unit alone: leave those out, decontaminate, split, write the corpus

Units do not depend on who works on them, so neither does the corpus. Each leaves a folder that appears
whole, with a manifest that the next phase checks; `plan.py` says what is done, `shard.py` what is left.
"""

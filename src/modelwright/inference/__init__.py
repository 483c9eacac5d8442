"""The engine: many sequences decoded as one batch, with a key-value cache.

`scheduler` decides who runs (plain Python, no tensors), `cache` and `runner` compute (tensors, no
policy), `sampling` draws the tokens, `text` turns them into characters, `engine` ties the knot.
"""

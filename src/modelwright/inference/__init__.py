"""The engine: many sequences decoded as one batch, with a paged key-value cache (docs/engine.md).

`scheduler` and `blocks` decide who runs and where its keys lie (plain Python, no tensors); `cache`, `runner`
and `compiled` compute (tensors, no policy); `sampling` draws the tokens, `penalties` and `structured` say
which may be drawn, `speculate` guesses them; `text` turns them into characters; `engine` ties the knot.
"""

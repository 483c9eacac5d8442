"""Decontamination: evaluation items found in training text, and how often they are found measured.

`items` reads evaluation sets, `index` builds and asks the index, `step` makes it a data step, `inject`
plants items and measures recall.
"""

"""Where a model acts and is scored: verifiers, the single-turn environment, and tasks, one a file.

The same task is trained on and evaluated on, so a score here means the same in both places.
"""

"""Who may see what: one stable hash decides, so that no two parts of the code can disagree.

Training text, validation text and problems are made by different functions at different times. They
keep apart because each asks `split_of` about the same key, whatever the seed and the count.
"""

from __future__ import annotations

from typing import Literal

from modelwright.base.seeding import derive

Part = Literal["train", "validation"]
"""What training may see or be steered by."""
Split = Literal[Part, "test"]

TEST_SHARE = 0.10
VALIDATION_SHARE = 0.10
OPERATORS = ("+", "-", "*")
_RESOLUTION = 10_000


def split_of(*key: str | int, test: float = TEST_SHARE, validation: float = VALIDATION_SHARE) -> Split:
    """The split that `key` belongs to, for ever: a hash of the key and nothing else."""
    position = derive(0, "atlas split", *key) % _RESOLUTION / _RESOLUTION
    if position < test:
        return "test"
    return "validation" if position < test + validation else "train"


def operands_split(operator: str, left: int, right: int) -> Split:
    """The split of a calculation. `3 + 5` and `5 + 3` are one question, so they share it."""
    assert operator in OPERATORS, operator
    if operator != "-":
        left, right = sorted((left, right))
    return split_of("arithmetic", operator, left, right)

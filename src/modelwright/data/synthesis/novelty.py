"""Is a request like one that is there already? By ROUGE-L, as Self-Instruct asks it (arXiv 2212.10560).

ROUGE-L (Lin 2004, aclanthology.org/W04-1013) is the F1 of the longest common subsequence of two texts' words:
2 L / (m + n). Words are those that near duplicates are compared by (`dedup.normal`), but digits count: sums
on other numbers are other requests. On English they are those of the package rouge-score without its stemmer.

Every new request is held against all before it. That is quick, since few can be near: a text shares at least
L words with those it is like, and words lead to the texts that hold them.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from modelwright.data.conversations.repeats import AS_LETTERS
from modelwright.data.dedup.normal import normalise

MAX_WORDS = 512
"""Only the first words are compared."""


class Near(NamedTuple):
    """The most alike of the texts before."""

    place: int
    """Which one, from 0 in the order of adding; -1 where there is none that shares a word."""
    likeness: float
    """ROUGE-L, 0 to 1."""


NOTHING_NEAR = Near(-1, 0.0)


def words_of(text: str) -> list[str]:
    """The words that are compared, at most `MAX_WORDS`."""
    return normalise(text.translate(AS_LETTERS)).split()[:MAX_WORDS]


def common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """The length of the longest common subsequence, all rows of the table at once as the bits of a number
    (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, word in enumerate(left):
        places[word] = places.get(word, 0) | (1 << place)
    all_ones = (1 << len(left)) - 1
    row = all_ones
    for word in right:
        both = row & places.get(word, 0)
        row = ((row + both) | (row - both)) & all_ones
    return len(left) - row.bit_count()


def rouge_l(left: Sequence[str], right: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words: 0 to 1, 0 where either has none."""
    if not left or not right:
        return 0.0
    return 2 * common_subsequence(left, right) / (len(left) + len(right))


class Novelty:
    """Texts so far, and which of them a new one is most like."""

    def __init__(self) -> None:
        self._texts: list[list[str]] = []
        self._lengths = array("q")
        self._holders: defaultdict[tuple[str, int], array[int]] = defaultdict(lambda: array("q"))
        """(word, its how-manieth occurrence) -> the texts that have it so often: what two texts share of
        these is what they share as bags of words, which no common subsequence exceeds."""

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str) -> None:
        """The next text."""
        words = words_of(text)
        for key in _occurrences(words):
            self._holders[key].append(len(self._texts))
        self._texts.append(words)
        self._lengths.append(len(words))

    def nearest(self, text: str) -> Near:
        """The first of the texts that are most like this one."""
        words = words_of(text)
        holders = [self._holders[key] for key in _occurrences(words) if key in self._holders]
        if not holders:
            return NOTHING_NEAR
        shared = np.bincount(np.concatenate([np.frombuffer(each, np.int64) for each in holders]))
        candidates = np.flatnonzero(shared)
        lengths = np.frombuffer(self._lengths, np.int64)[candidates] + len(words)
        at_most = 2 * shared[candidates] / lengths
        best = NOTHING_NEAR
        for order in np.lexsort((candidates, -at_most)).tolist():
            if at_most[order] < best.likeness:
                break
            place = int(candidates[order])
            likeness = rouge_l(words, self._texts[place])
            if likeness > best.likeness or (likeness == best.likeness and place < best.place):
                best = Near(place, likeness)
        return best


def _occurrences(words: Sequence[str]) -> list[tuple[str, int]]:
    seen = Counter[str]()
    keys: list[tuple[str, int]] = []
    for word in words:
        keys.append((word, seen[word]))
        seen[word] += 1
    return keys

"""The search in plain Python: the reference that `match.cpp` is tested against, and its stand-in.

From each n-gram of the text that the index has, the item's whole question is laid over the text around it.
A bound that costs little (the words in common, whatever their order) turns most chance meetings away;
for the rest, the heaviest common subsequence of question and window is found by dynamic programming. Edits
of a few words thus cost the weight of those words, where counting n-grams would lose n for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modelwright.data.decontaminate.arrays import Arrays
from modelwright.data.decontaminate.words import extend_key, word_key, words

REACH = 64
"""How many words may stand between a question and its answer."""

CELLS_A_WORD = 4096
"""Dynamic programming that a text may cost, by its words. A text beyond it is made of n-grams of the index
in disorder; then the bound is taken for the score."""


class Found(NamedTuple):
    """One place where a question may stand. Scores are in the weights' unit, places in the text's bytes
    (plain path: code points); a part that was not found has score 0."""

    item: int
    question: int
    question_start: int
    question_end: int
    answer: int
    answer_start: int
    answer_end: int
    passage: int
    passage_start: int
    passage_end: int


class Span(NamedTuple):
    """A weight, and the words [start, end) of the text that it was found in."""

    weight: int
    start: int
    end: int


NOTHING = Span(0, 0, 0)


@dataclass(slots=True)
class _Search:
    arrays: Arrays
    text: list[int]
    """The text's words by number, -1 for those that no item has."""
    weights: list[int]
    cells: int

    def around(self, item: int, begin: int, floor_percent: int) -> tuple[Span, Span, Span] | None:
        """The item's parts near a question that begins about word `begin`; None if it is not there."""
        question = self.arrays.part(item, 0).tolist()
        slack = slack_of(len(question))
        low, high = max(0, begin - slack), min(len(self.text), begin + len(question) + slack)
        least = floor_percent * sum(self.weights[word] for word in question)
        found = self.align(question, low, high, least)
        if found.weight * 100 < least or not found.weight:
            return None
        answer = self.beside(self.arrays.part(item, 1).tolist(), found)
        return found, answer, self.beside(self.arrays.part(item, 2).tolist(), found)

    def beside(self, part: Sequence[int], question: Span) -> Span:
        """The better match of a part after or before the question."""
        width = REACH + len(part) + len(part) // 4
        after = self.align(part, question.end, min(len(self.text), question.end + width), 0)
        before = self.align(part, max(0, question.start - width), question.start, 0)
        return before if before.weight > after.weight else after

    def align(self, part: Sequence[int], low: int, high: int, least: int) -> Span:
        """The heaviest common subsequence of a part and the words [low, high); `NOTHING` where it cannot
        reach `least` (in hundredths)."""
        left = Counter(part)
        bound = 0
        for word in self.text[low:high]:
            if left[word] > 0:
                left[word] -= 1
                bound += self.weights[word]
        if bound * 100 < least or not bound:
            return NOTHING
        self.cells -= len(part) * (high - low)
        if self.cells < 0:
            return Span(bound, low, high)
        best, start = [0] * (high - low + 1), [low] * (high - low + 1)
        for word in part:
            diagonal, diagonal_start = 0, low
            for column in range(1, high - low + 1):
                above, above_start = best[column], start[column]
                if self.text[low + column - 1] == word:
                    met = diagonal + self.weights[word]
                    met_start = diagonal_start if diagonal else low + column - 1
                else:
                    met, met_start = -1, 0
                if met >= above and met >= best[column - 1]:
                    best[column], start[column] = met, met_start
                elif above < best[column - 1]:
                    best[column], start[column] = best[column - 1], start[column - 1]
                diagonal, diagonal_start = above, above_start
        return Span(best[-1], start[-1], low + best.index(best[-1]))


def slack_of(num_words: int) -> int:
    """How many words a text may have more than the item on either side: what edits insert."""
    return 4 + num_words // 4


def search(arrays: Arrays, folded: str, floor_percent: int) -> list[Found]:
    """Every place where a question reaches `floor_percent` of its weight."""
    found = words(folded)
    number = {key: place for place, key in enumerate(arrays.word_keys.tolist())}
    text = [number.get(word_key(word), -1) for word, _, _ in found]
    task = _Search(arrays, text, arrays.word_weights.tolist(), CELLS_A_WORD * (len(text) + CELLS_A_WORD))
    rows: list[Found] = []
    last: dict[int, int] = {}
    lengths = frozenset(arrays.lengths.tolist())
    for at in range(len(text)):
        for item, offset in _seeds(arrays, lengths, text, at):
            begin = at - offset
            near = slack_of(len(arrays.part(item, 0))) // 2
            if item in last and abs(begin - last[item]) <= near:
                continue
            last[item] = begin
            parts = task.around(item, begin, floor_percent)
            if parts is not None:
                rows.append(Found(item, *(number for part in parts for number in _placed(part, found))))
    return rows


def _seeds(arrays: Arrays, lengths: frozenset[int], text: Sequence[int], at: int) -> list[tuple[int, int]]:
    """(item, place in its question) for the n-grams that start at a word."""
    seeds: list[tuple[int, int]] = []
    key = 0
    for length, word in enumerate(text[at : at + max(lengths, default=0)], 1):
        if word < 0:
            break
        key = extend_key(key, word)
        if length in lengths:
            gram = int(np.searchsorted(arrays.gram_keys, np.uint64(key)))
            if gram < len(arrays.gram_keys) and int(arrays.gram_keys[gram]) == key:
                first, end = int(arrays.gram_first[gram]), int(arrays.gram_first[gram + 1])
                items, offsets = arrays.posting_item[first:end], arrays.posting_at[first:end]
                seeds += zip(items.tolist(), offsets.tolist(), strict=True)
    return seeds


def _placed(span: Span, found: Sequence[tuple[str, int, int]]) -> tuple[int, int, int]:
    """Words to places in the text."""
    return (span.weight, found[span.start][1], found[span.end - 1][2]) if span.weight else (0, 0, 0)

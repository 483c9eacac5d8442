"""The search in plain Python: the reference that `match.cpp` is tested against, and its stand-in.

From each seed of the text that the index has, the item's whole question is laid over the text around it.
A bound that costs little (the words in common, whatever their order) turns most chance meetings away;
for the rest, the heaviest common subsequence of question and window is found by dynamic programming. Edits
of a few words thus cost the weight of those words, where counting n-grams would lose n for each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from modelwright.data.decontaminate.arrays import Arrays
from modelwright.data.decontaminate.seeds import FOLLOWS, LEADS, PAIR_REACH
from modelwright.data.decontaminate.words import PAIR_KEY, alike, extend_key, word_key, words

REACH = 64
"""How many words may stand between a question and its answer."""

WORDS_A_SLIP = 12
"""An edit costs one word of so many, and one of any item: `slips`."""

CELLS_A_WORD = 4096
"""Dynamic programming that a text may cost, by its words. A text beyond it is made of n-grams of the index
in disorder; then the bound is taken for the score."""


Place = tuple[int, int, int, int, int]
"""Of a part: weight, words, extra words, start, end, as in `Found`."""


class Found(NamedTuple):
    """One place where a question may stand. For each part: the weight found, in the weights' unit, and the
    number of words; how many other words of the text stand among them; places in the text's bytes (plain
    path: code points). All 0 if not found."""

    item: int
    question: int
    question_words: int
    question_extra: int
    question_start: int
    question_end: int
    answer: int
    answer_words: int
    answer_extra: int
    answer_start: int
    answer_end: int
    passage: int
    passage_words: int
    passage_extra: int
    passage_start: int
    passage_end: int

    def part(self, number: int) -> Place:
        """The question's numbers (0), the answer's (1), or the passage's (2)."""
        weight, found, extra, start, end = self[1 + 5 * number : 6 + 5 * number]
        return weight, found, extra, start, end


class Span(NamedTuple):
    """A weight and a number of words, and the words [start, end) of the text that they were found in."""

    weight: int
    found: int
    start: int
    end: int


NOTHING = Span(0, 0, 0, 0)


def slips(num_words: int) -> int:
    """How many words of an item may be missing if the others are found."""
    return 1 + num_words // WORDS_A_SLIP


def slack_of(num_words: int) -> int:
    """How many words a text may have more than the item on either side: what edits insert."""
    return 4 + num_words // 4


@dataclass(slots=True)
class _Search:
    arrays: Arrays
    text: list[int]
    """The text's words by number, -1 for those that no item has,"""
    spelt: list[bytes]
    """and as they are spelt."""
    weights: list[int]
    cells: int

    def around(self, item: int, begin: int, floor_percent: int, least: int) -> tuple[Span, Span, Span] | None:
        """The item's parts near a question that begins about word `begin`; None if it is not there."""
        question, answer, passage = (self.arrays.part(item, part).tolist() for part in range(3))
        slack = slack_of(len(question))
        low = max(0, begin - slack)
        high = max(low, min(len(self.text), begin + len(question) + slack))
        floor = floor_percent * sum(self.weights[word] for word in question)
        found = self.align(question, low, high, floor, len(question) - slips(len(question) + len(answer)))
        if not found.weight:
            return None
        answered, supported = self.beside(answer, found), self.beside(passage, found)
        enough = found.weight + max(answered.weight, supported.weight) >= least
        return (found, answered, supported) if enough else None

    def beside(self, part: Sequence[int], question: Span) -> Span:
        """The better match of a part after or before the question."""
        width = REACH + len(part) + len(part) // 4
        after = self.align(part, question.end, min(len(self.text), question.end + width), 0, 0)
        before = self.align(part, max(0, question.start - width), question.start, 0, 0)
        return before if before.weight > after.weight else after

    def align(self, part: Sequence[int], low: int, high: int, floor: int, enough: int) -> Span:
        """The heaviest common subsequence of a part and the words [low, high); `NOTHING` where it has neither
        the weight `floor` (in hundredths) nor `enough` words."""
        window = self.text[low:high]
        left = Counter(part)
        for word in window:
            if left[word] > 0:
                left[word] -= 1
        if 0 < left.total() <= min(len(part) - 1, 2 * slips(len(part))):
            self.respell(part, left, window, low)
        missing = sum(self.weights[word] * count for word, count in left.items())
        bound = Span(sum(self.weights[word] for word in part) - missing, len(part) - left.total(), low, high)
        if not bound.weight or (bound.weight * 100 < floor and bound.found < enough):
            return NOTHING
        self.cells -= len(part) * len(window)
        if self.cells < 0:
            return bound
        found = self.heaviest(part, window, low)
        return found if found.weight * 100 >= floor or found.found >= enough else NOTHING

    def respell(self, part: Sequence[int], left: Counter[int], window: list[int], low: int) -> None:
        """Read misspelt words of the window as the words of the part that they stand for."""
        for word in part:
            if left[word] > 0:
                first, end = self.arrays.letters_first[word : word + 2]
                letters = self.arrays.letters[first:end].tobytes()
                for place, other in enumerate(window):
                    if left[word] > 0 and other not in left and alike(letters, self.spelt[low + place]):
                        window[place] = word
                        left[word] -= 1

    def heaviest(self, part: Sequence[int], window: Sequence[int], low: int) -> Span:
        """By dynamic programming over the words of the part (rows) and of the window (columns)."""
        width = len(window)
        best, found, start = [0] * (width + 1), [0] * (width + 1), [low] * (width + 1)
        for word in part:
            diagonal = (0, 0, low)
            for column in range(1, width + 1):
                above = (best[column], found[column], start[column])
                met = -1
                if window[column - 1] == word:
                    met = diagonal[0] + self.weights[word]
                if met >= above[0] and met >= best[column - 1]:
                    best[column], found[column] = met, diagonal[1] + 1
                    start[column] = diagonal[2] if diagonal[0] else low + column - 1
                elif above[0] < best[column - 1]:
                    best[column], found[column] = best[column - 1], found[column - 1]
                    start[column] = start[column - 1]
                diagonal = above
        end = best.index(best[-1])
        return Span(best[-1], found[end], start[end], low + end)


def search(arrays: Arrays, folded: str, floor_percent: int, least: int, limit: int) -> list[Found]:
    """The first `limit` places where a question reaches `floor_percent` of its weight, or has all words but
    `slips`, and weighs `least` with what was found beside it; in the order in which seeds lead to them."""
    found = words(folded)
    number = {key: place for place, key in enumerate(arrays.word_keys.tolist())}
    text = [number.get(word_key(word), -1) for word, _, _ in found]
    spelt = [word.encode("utf-8", "surrogatepass") for word, _, _ in found]
    cells = CELLS_A_WORD * (len(text) + CELLS_A_WORD)
    task = _Search(arrays, text, spelt, arrays.word_weights.tolist(), cells)
    rows: list[Found] = []
    last: dict[int, int] = {}
    for item, begin in _seeds(arrays, text):
        if len(rows) == limit:
            break
        near = slack_of(len(arrays.part(item, 0))) // 2
        if item in last and abs(begin - last[item]) <= near:
            continue
        last[item] = begin
        parts = task.around(item, begin, floor_percent, least)
        if parts is not None:
            rows.append(Found(item, *(number for part in parts for number in _placed(part, found))))
    return rows


def _seeds(arrays: Arrays, text: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(item, the word of the text where its question would begin) for all seeds of the text."""
    leads: list[tuple[int, int]] = []  # word, and the key of a pair that it leads
    roles = [*arrays.roles.tolist(), 0]  # the last is for -1
    for at, word in enumerate(text):
        leads = [lead for lead in leads if lead[0] >= at - PAIR_REACH]
        pairs = [extend_key(key, word) for _, key in leads] if roles[word] & FOLLOWS else []
        if roles[word] & LEADS:
            leads.append((at, extend_key(PAIR_KEY, word)))
        for key in [*pairs, *_grams(arrays, text, at)]:
            gram = int(np.searchsorted(arrays.gram_keys, np.uint64(key)))
            if gram < len(arrays.gram_keys) and int(arrays.gram_keys[gram]) == key:
                for post in range(int(arrays.gram_first[gram]), int(arrays.gram_first[gram + 1])):
                    yield int(arrays.posting_item[post]), at - int(arrays.posting_at[post])


def _grams(arrays: Arrays, text: Sequence[int], at: int) -> Iterator[int]:
    """The keys of the n-grams that start at a word."""
    lengths = arrays.lengths.tolist()
    key = 0
    for length, word in enumerate(text[at : at + max(lengths, default=0)], 1):
        if word < 0:
            return
        key = extend_key(key, word)
        if length in lengths:
            yield key


def _placed(span: Span, found: Sequence[tuple[str, int, int]]) -> tuple[int, ...]:
    """A part's numbers for its row: words to places in the text."""
    if not span.weight:
        return 0, 0, 0, 0, 0
    extra = span.end - span.start - span.found
    return span.weight, span.found, extra, found[span.start][1], found[span.end - 1][2]

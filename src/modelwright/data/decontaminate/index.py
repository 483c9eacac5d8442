"""The index of evaluation items: built once, asked about every document.

The rule follows `decon` of OLMo 3: an n-gram in common is a seed, the item's question is laid over the text
around it and scored by the inverse document frequency of the words found, and the answer is looked for
nearby. Three things differ. Seeds are tried at every word instead of every tenth, and short items have pairs
of rare words besides (`seeds`). A question is scored by the words of its best alignment instead of by whole
n-grams, so that an edited word costs its own weight and no more. And since one edit takes a large share of
a short item, a second rule counts words: one in twelve, and one of any item, may be missing where the others
stand in order, close together, and weigh enough. As in ConTAM (arXiv 2411.03923), one contiguous place
decides, not the union of all places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from modelwright.base import config
from modelwright.base.errors import DamagedFile, UserError
from modelwright.data.decontaminate.arrays import MAX_WORDS, UNIT, Arrays, build
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.decontaminate.native import Searcher, searcher
from modelwright.data.decontaminate.plain import Found, Place, slips
from modelwright.data.decontaminate.seeds import first_alike
from modelwright.data.decontaminate.settings import Config

Kind = Literal["question", "question and answer", "question and passage"]


@dataclass(frozen=True, slots=True)
class Hit:
    """An item found in a text."""

    suite: str
    item: str
    score: float
    """Share of the item's weight that was found, 0 to 1."""
    start: int
    end: int
    """text[start:end] is the contaminated span, in code points."""
    kind: Kind

    def __str__(self) -> str:
        return f"{self.suite}/{self.item}"


@dataclass(frozen=True)
class Index:
    """Arrays, the items' names, and the rule. Made by `Index.build` or `Index.load`."""

    arrays: Arrays
    names: list[tuple[str, str]]
    """(suite, id) of each item."""
    config: Config

    @classmethod
    def build(cls, items: Iterable[EvalItem], config: Config | None = None) -> Index:
        """The index of all items. Raises UserError when there are none."""
        config = config or Config()
        listed = list(items)
        if not listed:
            raise UserError("no evaluation items to decontaminate against. Name at least one evaluation set.")
        parts = [part for item in listed for part in _worded(item)]
        arrays = build(parts, config.ngram_words, config.max_postings)
        return cls(arrays, [(item.suite, item.id) for item in listed], config)

    def save(self, folder: Path) -> None:
        """Write the index as a folder of .npy files and a JSON file."""
        self.arrays.save(folder, {"config": self.config.model_dump(), "names": self.names})

    @classmethod
    def load(cls, folder: Path) -> Index:
        """An index whose arrays are mapped into memory, shared by all processes that load it."""
        arrays, about = Arrays.load(Path(folder))
        names = [cast("tuple[str, str]", tuple(name)) for name in cast("list[list[str]]", about["names"])]
        if len(names) != arrays.num_items:
            raise DamagedFile(
                f"{folder} names {len(names)} items and holds {arrays.num_items}. Build it anew."
            )
        return cls(
            arrays, names, config.validate(Config, cast("dict[str, Any]", about["config"]), str(folder))
        )

    def check(self, text: str) -> Hit | None:
        """The hit with the highest score, the first of equals; None for a clean text. A text that repeats a
        suite written from templates has thousands of places that look like items: the first `ENOUGH` that
        hold a hit decide, since no further one changes the verdict, though it may score higher."""
        limit = ENOUGH
        while True:
            rows = self._search(text, FLOOR_PERCENT, self._least, limit)
            hits = self._hits(rows)
            if hits or len(rows) < limit:
                return max(hits, key=lambda hit: hit.score, default=None)
            limit *= ENOUGH

    def find(self, text: str) -> list[Hit]:
        """All hits, in the order in which they stand in the text."""
        return self._hits(self._search(text, FLOOR_PERCENT, self._least, ALL))

    def unusable(self) -> Iterator[tuple[str, str, str]]:
        """(suite, id, why) of every item that cannot be found, however it stands in a text."""
        seeded = set(self.arrays.posting_item.tolist())
        firsts = first_alike(
            [self.arrays.part(item, part) for item in range(len(self.names)) for part in range(3)]
        )
        for item, (suite, name) in enumerate(self.names):
            if not self._lengths[item, 0]:
                yield suite, name, "no words"
            elif firsts[item] not in seeded:
                yield suite, name, "only words that many items share"
            elif self._weights[item, 0] + self._weights[item, 1:].max() < self.config.least_nats * UNIT:
                yield suite, name, "too generic"

    def fragile(self) -> Iterator[tuple[str, str]]:
        """(suite, id) of every item that weighs too little once its heaviest word is edited, however far the
        edit goes: short questions that few words tell from ordinary text."""
        for item, (suite, name) in enumerate(self.names):
            both = np.concatenate([self.arrays.part(item, 0), self.arrays.part(item, 1)])
            heaviest = self.arrays.word_weights[both].max(initial=0)
            if self._weights[item, :2].sum() - heaviest < self.config.least_nats * UNIT:
                yield suite, name

    def coverage(self) -> Counter[str]:
        """Items by whether they can be found, and if not, why."""
        counts = Counter(why for _, _, why in self.unusable())
        counts["usable"] = len(self.names) - counts.total()
        return counts

    def _hits(self, rows: Iterable[Found]) -> list[Hit]:
        hits = [hit for row in rows if (hit := self._judge(row)) is not None]
        return sorted(hits, key=lambda hit: (hit.start, hit.end, hit.suite, hit.item))

    def _judge(self, row: Found) -> Hit | None:
        found = [*self._by_share(row), *self._by_words(row)]
        if not found:
            return None
        score, kind, (first, last) = max(found, key=lambda each: each[0])
        return Hit(*self.names[row.item], score, first, last, kind)

    def _by_share(self, row: Found) -> Iterator[tuple[float, Kind, tuple[int, int]]]:
        """Found where the words of the item that stand there have a large share of its weight; those of a
        short item in one piece."""
        question, answer, passage = self._weights[row.item].tolist()
        num_question, num_answer, num_passage = self._lengths[row.item].tolist()
        place = (row.question_start, row.question_end)
        alone = row.question / question
        whole = row.question_extra <= self._insertable(num_question)
        if question >= self.config.least_nats * UNIT and whole and alone >= self._needed(num_question):
            yield alone, "question", place
        beside: tuple[tuple[Kind, int, int, Place], ...] = (
            ("question and answer", answer, num_answer, row.part(1)),
            ("question and passage", passage, num_passage, row.part(2)),
        )
        for kind, heavy, num_words, (weight, _, extra, start, end) in beside:
            both = (row.question + weight) / (question + heavy)
            num_words += num_question
            whole = row.question_extra + extra <= self._insertable(num_words)
            if not weight or question + heavy < self.config.least_nats * UNIT:
                continue
            if whole and both >= self._needed(num_words):
                yield both, kind, (min(place[0], start), max(place[1], end))

    def _by_words(self, row: Found) -> Iterator[tuple[float, Kind, tuple[int, int]]]:
        """Found where all words stand there but a few, in one piece, the answer close to the question. A
        question without the answer that it has is no finding here: titles and phrases come without."""
        question, answer, _ = self._weights[row.item].tolist()
        num_question, num_answer, _ = self._lengths[row.item].tolist()
        between = max(row.answer_start - row.question_end, row.question_start - row.answer_end)
        if num_answer and (not row.answer or between > BETWEEN):
            return
        num_words = num_question + num_answer
        missing = num_words - row.question_words - row.answer_words
        extra, weight = row.question_extra + row.answer_extra, row.question + row.answer
        few = missing <= slips(num_words) and extra <= INSERTED + slips(num_words)
        if few and weight >= self.config.least_nats * UNIT:
            ends = [row.question_end, row.answer_end] if num_answer else [row.question_end]
            starts = [row.question_start, row.answer_start] if num_answer else [row.question_start]
            kind: Kind = "question and answer" if num_answer else "question"
            yield weight / (question + answer), kind, (min(starts), max(ends))

    def _insertable(self, num_words: int) -> float:
        """How many other words may stand among those of an item; any number among those of a long one."""
        return INSERTED + slips(num_words) if num_words < self.config.long_words else math.inf

    def _needed(self, num_words: int) -> float:
        """The share of the weight that an item of so many words must reach."""
        low, high = self.config.short_words, self.config.long_words
        along = min(max((num_words - low) / max(high - low, 1), 0.0), 1.0)
        return 1.0 - along * (1.0 - self.config.threshold)

    @property
    def _least(self) -> int:
        """What a place must weigh to be judged."""
        return int(self.config.threshold * self.config.least_nats * UNIT)

    @cached_property
    def _search(self) -> Searcher:
        return searcher(self.arrays)

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.diff(self.arrays.part_first).reshape(-1, 3)

    @cached_property
    def _weights(self) -> np.ndarray:
        """(N, 3) weight of each part of each item."""
        running = np.append(0, np.cumsum(self.arrays.word_weights[self.arrays.part_words], dtype=np.int64))
        return np.diff(running[self.arrays.part_first]).reshape(-1, 3)


def _worded(item: EvalItem) -> tuple[str, str, str]:
    """Question, answer and passage; nothing where they hold numbers alone. Those of "3-7+7-1" stand in order
    in lists of versions and in tables (3 of 8,874 clean texts were taken for items)."""
    parts = item.question, item.answer, item.passage
    return parts if any(letter.isalpha() for part in parts for letter in part) else ("", "", "")


FLOOR_PERCENT = 60
"""A question must reach this share of its weight, or miss few words, before its answer is looked for."""

ENOUGH, ALL = 64, 1 << 32
"""Places that are judged at first where only the verdict counts, and where all hits do."""

INSERTED = 1
"""How many words that are not its own may stand within a short item, besides those in place of `slips`."""

BETWEEN = 64
"""Characters between a question with slips and its answer."""

__all__ = ["FLOOR_PERCENT", "MAX_WORDS", "Config", "Hit", "Index", "Kind"]

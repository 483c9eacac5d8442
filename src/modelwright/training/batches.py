"""Micro-batches as pure functions of (seed, index): a resumed run needs to know only where it was.

Four views of data, one protocol. `Windows` cuts a long stream of tokens (pre-training), `Packed` puts
whole examples side by side in rows (fine-tuning), `Grouped` pads examples of like length (the same, without
packing), `Pairs` lays two answers to a prompt in adjacent rows (preferences). Rows never attend across
documents: `segments` numbers the documents of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.base.schema import IGNORE, Batch
from modelwright.base.seeding import derive


class Batches(Protocol):
    """An endless or finite row of micro-batches."""

    def __getitem__(self, index: int) -> Batch: ...


class FiniteBatches(Batches, Protocol):
    """A row of micro-batches with an end."""

    def __len__(self) -> int: ...


class TokenStream(Protocol):
    """Tokens on disk, documents one after the other, each ended by the end-of-text token."""

    def __len__(self) -> int: ...

    def read(self, start: int, length: int) -> np.ndarray: ...


@dataclass(frozen=True, slots=True)
class Example:
    """Tokens and which of them are learned: `mask[i]` says that ids[i] is a target."""

    ids: Sequence[int]
    mask: Sequence[bool]


class Windows:
    """Windows of T tokens in an order shuffled anew each epoch, endlessly.

    Each epoch shifts the cuts by a random offset, so documents are cut at other places; a window's
    last target is the next window's first token. Only the few tokens before the offset sit an epoch out.
    """

    def __init__(self, tokens: TokenStream, rows: int, length: int, seed: int, end_of_text: int) -> None:
        self.windows = (len(tokens) - length) // length
        if self.windows < 1:
            raise UserError(
                f"the corpus has {len(tokens):,} tokens, too few for one window of {length:,}: "
                "add text or set a shorter pretrain.context"
            )
        self._tokens, self._rows, self._length = tokens, rows, length
        self._seed, self._end = seed, end_of_text
        self._order = lru_cache(maxsize=2)(self._make_order)

    def _make_order(self, epoch: int) -> tuple[int, np.ndarray]:
        random = np.random.default_rng(derive(self._seed, "windows", epoch))
        return int(random.integers(self._length)), random.permutation(self.windows)

    def start_of(self, number: int) -> int:
        """Where the first token of row `number` of training stands in the stream."""
        epoch, place = divmod(number, self.windows)
        offset, order = self._order(epoch)
        return offset + int(order[place]) * self._length

    def row(self, number: int) -> np.ndarray:
        """(T + 1,) ids of row `number` of training."""
        return self._tokens.read(self.start_of(number), self._length + 1)

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: (rows, T)."""
        numbers = range(index * self._rows, (index + 1) * self._rows)
        return next_token_batch([self.row(number) for number in numbers], self._end)


class Mixture:
    """Rows from several streams of windows: `choice[n]` says from which one row n comes.

    Each stream is read on in its own shuffled order, so a row depends on its number alone. A stream that
    no row comes from may be None.
    """

    def __init__(
        self, streams: Sequence[Windows | None], choice: np.ndarray, rows: int, end_of_text: int
    ) -> None:
        self._streams, self._choice = streams, choice
        self._rows, self._end = rows, end_of_text
        self._place = np.zeros(len(choice), dtype=np.int64)
        for stream in range(len(streams)):
            chosen = choice == stream
            self._place[chosen] = np.arange(int(chosen.sum()))

    def __len__(self) -> int:
        """Micro-batches in all."""
        return len(self._choice) // self._rows

    def start_of(self, number: int) -> tuple[int, int]:
        """(stream, place of the first token in it) of row `number` of training."""
        stream = int(self._choice[number])
        return stream, self._stream(stream).start_of(int(self._place[number]))

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: (rows, T)."""
        numbers = range(index * self._rows, (index + 1) * self._rows)
        rows = [self._stream(int(self._choice[n])).row(int(self._place[n])) for n in numbers]
        return next_token_batch(rows, self._end)

    def _stream(self, number: int) -> Windows:
        stream = self._streams[number]
        assert stream is not None, f"row from stream {number}, which is left out"
        return stream


def next_token_batch(rows: Sequence[np.ndarray], end_of_text: int) -> Batch:
    """(T + 1,) ids a row -> a batch in which each token predicts the next, within its document."""
    stacked = torch.from_numpy(np.stack(rows).astype(np.int64))
    ids = stacked[:, :-1].contiguous()
    ends = (ids == end_of_text).long()
    return Batch(ids=ids, targets=stacked[:, 1:].contiguous(), segments=ends.cumsum(1) - ends)


MULTIPLE = 32
"""Rows of like length are padded to a multiple of so many tokens: shapes stay few, and kernels work in whole
blocks."""


class Fitting:
    """The examples that a training learns from: those with a supervised token and of at most `length` + 1
    tokens, since the last one is a target alone.

    `kept` are their places among all that were given, `too_long` and `without_target` those of the others.
    """

    def __init__(self, examples: Sequence[Example], length: int) -> None:
        learned = [any(example.mask[1:]) for example in examples]
        fits = [len(example.ids) <= length + 1 for example in examples]
        places = range(len(examples))
        self.kept = [index for index in places if learned[index] and fits[index]]
        self.without_target = [index for index in places if not learned[index]]
        self.too_long = [index for index in places if learned[index] and not fits[index]]
        self._examples = [examples[index] for index in self.kept]
        if not self.kept:
            raise UserError(
                f"none of {len(examples):,} examples fits {length} tokens and has a supervised token: "
                "training would learn nothing"
            )

    def digest(self) -> str:
        """sha256 of what is learned, in the order of the sources: two pipelines that turn the same texts into
        the same tokens and masks have the same."""
        return digest_of(self._examples)

    def holding(self, token: int) -> int:
        """How many of the examples have a token in them."""
        return sum(token in example.ids for example in self._examples)


class Packed(Fitting):
    """Examples side by side in rows of T tokens, whole, in an order shuffled anew each epoch.

    Packing is first-fit over the shuffled order with a few open rows; a row's rest is padding without loss.
    """

    OPEN_ROWS = 8

    def __init__(
        self, examples: Sequence[Example], rows: int, length: int, seed: int, padding: int, epochs: float = 1
    ) -> None:
        super().__init__(examples, length)
        self._rows, self._length, self._padding = rows, length, padding
        parts = parts_of(epochs, seed, "packed")
        self._plan = [row for each, share in parts for row in self._pack(each, share)]

    def _pack(self, seed: int, share: float) -> list[list[int]]:
        done: list[list[int]] = []
        rows: list[tuple[int, list[int]]] = []
        order = np.random.default_rng(seed).permutation(len(self._examples))
        for index in order[: max(1, round(share * len(order)))]:
            size = len(self._examples[index].ids) - 1
            for place, (free, row) in enumerate(rows):
                if size <= free:
                    row.append(int(index))
                    rows[place] = (free - size, row)
                    break
            else:
                rows.append((self._length - size, [int(index)]))
                if len(rows) > self.OPEN_ROWS:
                    fullest = min(range(len(rows)), key=lambda place: rows[place][0])
                    done.append(rows.pop(fullest)[1])
        return done + [row for _, row in rows]

    def members(self, row: int) -> list[int]:
        """Places of the examples, among all that were given, in a row of training; empty behind the last."""
        return [self.kept[index] for index in self._plan[row]] if row < len(self._plan) else []

    def examples_in(self, index: int) -> list[Example]:
        """Those of micro-batch `index`."""
        rows = self._plan[index * self._rows : (index + 1) * self._rows]
        return [self._examples[member] for row in rows for member in row]

    @property
    def num_positions(self) -> int:
        """Places for tokens over all epochs, padding included: what a training computes."""
        return len(self) * self._rows * self._length

    def __len__(self) -> int:
        """Micro-batches over all epochs; the last one may have empty rows."""
        return -(-len(self._plan) // self._rows)

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: (rows, T)."""
        shape = (self._rows, self._length)
        ids = torch.full(shape, self._padding)
        targets = torch.full(shape, IGNORE)
        segments = torch.full(shape, -1)
        for row in range(self._rows):
            if (place := index * self._rows + row) < len(self._plan):
                self._fill(ids[row], targets[row], segments[row], self._plan[place])
        return Batch(ids=ids, targets=targets, segments=segments)

    def _fill(self, ids: Tensor, targets: Tensor, segments: Tensor, members: Sequence[int]) -> None:
        start = 0
        for segment, index in enumerate(members):
            example = self._examples[index]
            end = start + len(example.ids) - 1
            ids[start:end] = torch.tensor(example.ids[:-1])
            targets[start:end] = shifted_targets(example)
            segments[start:end] = segment
            start = end


class Grouped(Fitting):
    """One example a row, and in a micro-batch examples of like length, padded to the longest of them.

    Which examples come together, and in which order, is shuffled anew each epoch. The loss is that of
    packing, which wastes less, and whose micro-batches take equally long.
    """

    def __init__(
        self, examples: Sequence[Example], rows: int, length: int, seed: int, padding: int, epochs: float = 1
    ) -> None:
        super().__init__(examples, length)
        self._rows, self._padding = rows, padding
        lengths = [len(example.ids) for example in self._examples]
        parts = parts_of(epochs, seed, "grouped")
        self._plan = [batch for each, share in parts for batch in of_like_length(lengths, rows, each, share)]

    def members(self, row: int) -> list[int]:
        """Place of the example, among all that were given, in a row of training; empty behind the last."""
        index, place = divmod(row, self._rows)
        batch = self._plan[index] if index < len(self._plan) else ()
        return [self.kept[batch[place]]] if place < len(batch) else []

    @property
    def num_positions(self) -> int:
        """Places for tokens over all epochs, padding included: what a training computes."""
        longest = (max(len(self._examples[member].ids) for member in batch) - 1 for batch in self._plan)
        return sum(
            len(batch) * whole_blocks(length) for batch, length in zip(self._plan, longest, strict=True)
        )

    def __len__(self) -> int:
        """Micro-batches over all epochs; in each epoch one may have fewer rows."""
        return len(self._plan)

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: (rows, T)."""
        return padded(self.examples_in(index), self._padding, MULTIPLE)

    def examples_in(self, index: int) -> list[Example]:
        """Those of micro-batch `index`, row by row."""
        return [self._examples[member] for member in self._plan[index]]


class Pairs:
    """Chosen and rejected answers in rows 2i and 2i + 1, right-padded to a common length.

    Pairs of like length share a micro-batch, to save padding; the order of micro-batches is shuffled
    each epoch. `reference_logps` (2P,) are the frozen reference's, in the order of `pairs`.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Example, Example]],
        size: int,
        seed: int,
        padding: int,
        reference_logps: Tensor | None = None,
        epochs: float = 1,
    ) -> None:
        if not pairs:
            raise UserError("no preference pair is left to learn from")
        self._pairs, self._padding, self._reference = pairs, padding, reference_logps
        lengths = [max(len(one.ids), len(other.ids)) for one, other in pairs]
        parts = parts_of(epochs, seed, "pairs")
        self._plan = [batch for each, share in parts for batch in of_like_length(lengths, size, each, share)]

    def members(self, index: int) -> list[int]:
        """Places of the pairs in micro-batch `index`, row by row."""
        return self._plan[index]

    def __len__(self) -> int:
        """Micro-batches over all epochs."""
        return len(self._plan)

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`: (2 x pairs, T)."""
        members = self._plan[index]
        rows = [example for member in members for example in self._pairs[member]]
        batch = padded(rows, self._padding, MULTIPLE)
        extra: dict[str, Tensor] = {}
        if self._reference is not None:
            extra["reference_logps"] = self._reference.view(-1, 2)[members].flatten()
        return Batch(ids=batch.ids, targets=batch.targets, extra=extra, unit=2)

    def digest(self) -> str:
        """sha256 of what is learned, in the order of the sources."""
        return digest_of(example for pair in self._pairs for example in pair)


def parts_of(epochs: float, seed: int, name: str) -> list[tuple[int, float]]:
    """(seed, share of the examples that is read) of each epoch; the last one's may be below 1."""
    return [(derive(seed, name, epoch), min(1.0, epochs - epoch)) for epoch in range(ceil(epochs))]


def of_like_length(lengths: Sequence[int], size: int, seed: int, share: float = 1.0) -> list[list[int]]:
    """0..n-1 in groups of `size` that are alike in length, so that little is padded. Ties are broken and the
    groups are put in order at random; of these the first `share`."""
    random = np.random.default_rng(seed)
    order = np.lexsort((random.permutation(len(lengths)), np.array(lengths)))
    groups = [order[start : start + size].tolist() for start in range(0, len(order), size)]
    mixed = [groups[index] for index in random.permutation(len(groups))]
    return mixed[: max(1, round(share * len(mixed)))]


def digest_of(examples: Iterable[Example]) -> str:
    """Hex sha256 of examples: of each its length, ids and mask, as 8, 8 and 1 bytes each."""
    found = hashlib.sha256()
    for example in examples:
        found.update(np.array([len(example.ids), *example.ids], dtype="<i8").tobytes())
        found.update(bytes(example.mask))
    return found.hexdigest()


def whole_blocks(length: int, multiple: int = MULTIPLE) -> int:
    """The next multiple."""
    return -(-length // multiple) * multiple


def shifted_targets(example: Example) -> Tensor:
    """(n - 1,) the target of each position but the last: the next id where it is learned, else IGNORE."""
    ids, mask = torch.tensor(example.ids[1:]), torch.tensor(example.mask[1:])
    return torch.where(mask, ids, IGNORE)


def padded(rows: Sequence[Example], padding: int, multiple: int = 1) -> Batch:
    """One example a row, padded on the right, where causal attention cannot see it."""
    length = whole_blocks(max(len(row.ids) for row in rows) - 1, multiple)
    ids = torch.full((len(rows), length), padding)
    targets = torch.full((len(rows), length), IGNORE)
    for i, row in enumerate(rows):
        ids[i, : len(row.ids) - 1] = torch.tensor(row.ids[:-1])
        targets[i, : len(row.ids) - 1] = shifted_targets(row)
    return Batch(ids=ids, targets=targets)

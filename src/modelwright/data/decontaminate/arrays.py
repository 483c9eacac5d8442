"""The index as flat arrays, which several processes can share by mapping the same files.

Sorted keys with a directory over their leading bits stand in for a hash table: they are built by sorting,
take no empty slots, and a look-up reads the one or two keys of its bucket.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import DamagedFile
from modelwright.base.files import atomic_directory, read_json
from modelwright.data.decontaminate.seeds import Bytes, Ints, Keys, Longs, first_alike, seeds_of
from modelwright.data.decontaminate.words import fold, word_key, words

UNIT = 1000
"""Weights are whole thousandths of a nat, so that every path adds them up to the same number."""

MAX_WORDS = 512
"""A part of an item is compared by its first words; nobody plants the second half only."""


@dataclass(frozen=True, slots=True)
class Arrays:
    """W words, G seeds (`seeds`), P postings, N items of three parts each (question, answer, passage)."""

    word_keys: Keys
    """(W,) ascending; a word's number is its place."""
    word_buckets: Longs
    """(2^b + 1,) where the keys with each leading b bits start."""
    word_weights: Ints
    """(W,) inverse document frequency over the items, in thousandths of a nat."""
    letters_first: Longs
    """(W + 1,) where each word's bytes start,"""
    letters: Bytes
    """which stand here in UTF-8: to tell misspelt words."""
    roles: Bytes
    """(W,) whether the word is the first of a pair, the second of one, or both."""
    pair_filter: Bytes
    """(2^f / 8,) bits, by the leading f bits of a pair's key: 0 where there is no such pair."""
    gram_keys: Keys
    """(G,) ascending keys of the items' n-grams and pairs."""
    gram_buckets: Longs
    """(2^c + 1,)"""
    gram_first: Longs
    """(G + 1,) where each seed's postings start."""
    posting_item: Ints
    """(P,) the item that has the seed"""
    posting_at: Ints
    """(P,) and its place: the first word of an n-gram, the second of a pair."""
    part_first: Longs
    """(3N + 1,) where the words of each part start."""
    part_words: Ints
    """The parts' words, by number."""
    lengths: Longs
    """The lengths of n-gram that there are, ascending; shorter ones stand for whole short questions."""

    @property
    def num_items(self) -> int:
        return (len(self.part_first) - 1) // 3

    def part(self, item: int, part: int) -> Ints:
        """The words of an item's question (0), answer (1) or passage (2)."""
        first = self.part_first[3 * item + part : 3 * item + part + 2]
        return self.part_words[first[0] : first[1]]

    def save(self, folder: Path, about: dict[str, object]) -> None:
        """Write one .npy file an array, and `about` as index.json."""
        with atomic_directory(folder) as temporary:
            for field in fields(self):
                np.save(temporary / f"{field.name}.npy", getattr(self, field.name), allow_pickle=False)
            (temporary / "index.json").write_text(json.dumps(about, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> tuple[Arrays, dict[str, object]]:
        """The arrays, mapped into memory, and what was saved about them."""
        try:
            found = {
                field.name: np.load(folder / f"{field.name}.npy", mmap_mode="r", allow_pickle=False)
                for field in fields(cls)
            }
            arrays = cls(**found)
            arrays.check()
            return arrays, read_json(folder / "index.json")
        except (OSError, ValueError, IndexError) as error:
            raise DamagedFile(
                f"{folder} is not a whole decontamination index: {error}. Build it anew."
            ) from error

    def check(self) -> None:
        """Raises ValueError unless every number in the arrays points into them: compiled code trusts it."""
        num_words, num_grams = len(self.word_keys), len(self.gram_keys)
        kinds = (np.uint64, np.int64, np.int32, np.int64, np.uint8, np.uint8, np.uint8)
        kinds = (*kinds, np.uint64, np.int64, np.int64, np.int32, np.int32, np.int64, np.int32, np.int64)
        sound = [
            all(getattr(self, f.name).dtype == kind for f, kind in zip(fields(self), kinds, strict=True)),
            len(self.word_weights) == len(self.roles) == num_words and len(self.part_first) % 3 == 1,
            len(self.letters_first) == num_words + 1 and _rises(self.letters_first, len(self.letters)),
            _power_of_two(len(self.pair_filter)) and len(self.pair_filter) >= 8,
            _rises(self.word_buckets, num_words) and _rises(self.gram_buckets, num_grams),
            len(self.gram_first) == num_grams + 1 and _rises(self.gram_first, len(self.posting_item)),
            len(self.posting_at) == len(self.posting_item) and _rises(self.part_first, len(self.part_words)),
            all(_power_of_two(len(each) - 1) for each in (self.word_buckets, self.gram_buckets)),
            _within(self.part_words, num_words) and _within(self.posting_item, self.num_items),
            _within(self.posting_at, MAX_WORDS) and _within(self.lengths, 17),
            bool(np.all(np.diff(self.part_first) <= MAX_WORDS)),
        ]
        if not all(sound):
            raise ValueError("its arrays contradict each other")


def _rises(starts: Longs, end: int) -> bool:
    return len(starts) > 0 and starts[0] == 0 and starts[-1] == end and bool(np.all(np.diff(starts) >= 0))


def _power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _within(numbers: NDArray[np.generic], limit: int) -> bool:
    return not len(numbers) or bool(numbers.min() >= 0 and numbers.max() < limit)


def buckets_of(keys: Keys) -> Longs:
    """The directory of ascending keys, about one bucket a key."""
    bits = max(1, len(keys).bit_length())
    edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    return np.append(np.searchsorted(keys, edges), len(keys)).astype(np.int64)


def build(parts: Sequence[str], n: int, max_postings: int) -> Arrays:
    """Arrays for items of three parts each, in order, found by n-grams of `n` words and by pairs, which
    at most `max_postings` places share."""
    texts = [[word for word, _, _ in words(fold(part))][:MAX_WORDS] for part in parts]
    vocabulary = sorted({word for text in texts for word in text}, key=word_key)
    number = {word: index for index, word in enumerate(vocabulary)}
    numbered = [np.array([number[word] for word in text], np.int32) for text in texts]
    word_keys = np.array([word_key(word) for word in vocabulary], np.uint64)
    coded = [word.encode("utf-8", "surrogatepass") for word in vocabulary]
    seeds = seeds_of(numbered, len(vocabulary), n, max_postings)
    keys, first = np.unique(seeds.keys, return_index=True)
    lengths = {min(n, len(question)) for question in numbered[::3]} - {0}
    return Arrays(
        word_keys=word_keys,
        word_buckets=buckets_of(word_keys),
        word_weights=_weights(numbered, len(vocabulary)),
        letters_first=np.cumsum([0, *map(len, coded)]).astype(np.int64),
        letters=np.frombuffer(b"".join(coded), np.uint8),
        roles=seeds.roles,
        pair_filter=seeds.filter,
        gram_keys=keys,
        gram_buckets=buckets_of(keys),
        gram_first=np.append(first, len(seeds.keys)).astype(np.int64),
        posting_item=seeds.item,
        posting_at=seeds.at,
        part_first=np.cumsum([0, *map(len, numbered)]).astype(np.int64),
        part_words=np.concatenate([*numbered, _NONE]),
        lengths=np.array(sorted(lengths), np.int64),
    )


def _weights(numbered: Sequence[Ints], num_words: int) -> Ints:
    """ln(1 + N / f) of the N items, f of which have the word; items alike in all words count once."""
    firsts = np.array(first_alike(numbered), np.int64)
    num_items = len(np.unique(firsts))
    item_of = np.repeat(np.repeat(firsts, 3), [len(part) for part in numbered])
    pairs = np.unique(item_of * max(num_words, 1) + np.concatenate([*numbered, _NONE]))
    counts = np.bincount(pairs % max(num_words, 1), minlength=num_words)[:num_words]
    return np.rint(np.log1p(num_items / np.maximum(counts, 1)) * UNIT).astype(np.int32)


_NONE = np.zeros(0, np.int32)

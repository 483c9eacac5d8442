"""Seeds: what a text and an item have in common that makes it worth while to compare them.

Two kinds, in one table. N-grams of the question find what is copied. An edit in the middle of six words
leaves no n-gram, so short items also have pairs: any two of their three rarest words, in order and not far
apart, whatever stands between. Whichever word is changed, one of the three pairs stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from modelwright.data.decontaminate.words import GRAM_FACTOR, PAIR_KEY

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Keys = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

PAIR_REACH = 12
"""The two words of a pair stand at most so many words apart."""

PAIRED_WORDS = 16
"""Longer questions need no pairs: edits of one word in twelve leave n-grams."""

RAREST = 3
"""Words of an item that make pairs. A fourth doubles what texts are compared with, and finds no more."""

LEADS, FOLLOWS = 1, 2
"""Roles of a word: the first of a pair, the second of one, or both."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """P seeds by ascending key; equal keys in order of item and place."""

    keys: Keys
    """(P,)"""
    item: Ints
    """(P,) the item that has the seed"""
    at: Ints
    """(P,) and where: the word of its question with which an n-gram starts, or the second word of a pair,
    counted on into the answer."""
    roles: Bytes
    """(W,) `LEADS` and `FOLLOWS` of each word"""
    filter: Bytes
    """A bit for the leading bits of each pair's key: most pairs of a text are no item's, and a look into
    the cache is enough to see it."""


def seeds_of(numbered: Sequence[Ints], num_words: int, n: int, max_postings: int) -> Seeds:
    """The seeds of items of three parts each. Items alike in all words have those of the first; seeds that
    more than `max_postings` places share lead nowhere and are left out."""
    firsts = first_alike(numbered)
    questions = [part if firsts[i] == i else _NONE for i, part in enumerate(numbered[::3])]
    answers = [part if firsts[i] == i else _NONE for i, part in enumerate(numbered[1::3])]
    keys, item, at = _grams(questions, n)
    kept = _rare_enough(keys, max_postings)
    pairs = _pairs(questions, answers, num_words)
    pair_keys = _extended(_extended(np.full(len(pairs), PAIR_KEY, np.uint64), pairs[:, 0]), pairs[:, 1])
    followed = _rare_enough(pair_keys, max_postings)
    pairs, pair_keys = pairs[followed], pair_keys[followed]
    roles = np.zeros(num_words, np.uint8)
    roles[pairs[:, 0]] |= LEADS
    roles[pairs[:, 1]] |= FOLLOWS
    every = np.concatenate([keys[kept], pair_keys])
    order = np.argsort(every, kind="stable")
    return Seeds(
        keys=every[order],
        item=np.concatenate([item[kept], pairs[:, 2]])[order].astype(np.int32),
        at=np.concatenate([at[kept], pairs[:, 3]])[order].astype(np.int32),
        roles=roles,
        filter=_filter(pair_keys),
    )


def first_alike(numbered: Sequence[Ints]) -> list[int]:
    """For each item the first that has the same words, most often itself: brackets or dots are no words, and
    suites share questions."""
    seen: dict[tuple[bytes, ...], int] = {}
    parts = [part.tobytes() for part in numbered]
    return [seen.setdefault(tuple(parts[3 * i : 3 * i + 3]), i) for i in range(len(parts) // 3)]


def _grams(questions: Sequence[Ints], n: int) -> tuple[Keys, Longs, Longs]:
    """(key, item, place) of all n-grams, and of whole questions that are shorter."""
    text = np.concatenate([*questions, _NONE])
    sizes = np.array([len(question) for question in questions], np.int64)
    item = np.repeat(np.arange(len(questions)), sizes)
    at = np.arange(len(text)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    length = np.minimum(sizes, n)[item]
    keys = np.zeros(len(text), np.uint64)
    for word in range(n):
        inside = np.flatnonzero((word < length) & (at + length <= sizes[item]))
        keys[inside] = _extended(keys[inside], text[inside + word])
    whole = np.flatnonzero(at + length <= sizes[item])
    return keys[whole], item[whole], at[whole]


def _pairs(questions: Sequence[Ints], answers: Sequence[Ints], num_words: int) -> Longs:
    """(first word, second word, item, place of the second) of pairs of the rarest words of short questions
    with their answers. Rare is what few items have; of equals the earlier."""
    held = [
        word
        for both in zip(questions, answers, strict=True)
        for word in {*both[0].tolist(), *both[1].tolist()}
    ]
    count = np.bincount(np.array(held, np.int64), minlength=num_words).tolist()
    rows: list[tuple[int, int, int, int]] = []
    for item, (question, answer) in enumerate(zip(questions, answers, strict=True)):
        if len(question) > PAIRED_WORDS:
            continue
        words = [*question.tolist(), *answer.tolist()][: PAIRED_WORDS + PAIR_REACH]
        place = {word: at for at, word in reversed(list(enumerate(words)))}
        rarest = sorted(place, key=lambda word: (count[word], place[word]))[:RAREST]
        for first, second in combinations(sorted(place[word] for word in rarest), 2):
            if second - first < PAIR_REACH:
                rows.append((words[first], words[second], item, second))
    return np.array(rows, np.int64).reshape(-1, 4)


def _extended(keys: Keys, words: NDArray[np.signedinteger]) -> Keys:
    """`words.extend_key` of many."""
    keys = (keys ^ (words.astype(np.uint64) + np.uint64(1))) * np.uint64(GRAM_FACTOR)
    return keys ^ (keys >> np.uint64(29))


def _rare_enough(keys: Keys, max_postings: int) -> Longs:
    """The places of keys that occur at most so often."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] <= max_postings)


def _filter(keys: Keys) -> Bytes:
    """16 to 32 bits a key, so about one in 20 pairs that no item has passes."""
    bits = max(6, (len(keys) * 16).bit_length())
    held = np.zeros(1 << bits, np.uint8)
    held[keys >> np.uint64(64 - bits)] = 1
    return np.packbits(held, bitorder="little")


_NONE = np.zeros(0, np.int32)

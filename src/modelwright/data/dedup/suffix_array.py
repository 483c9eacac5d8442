"""Suffix arrays by prefix doubling (Manber and Myers 1990), and what they say of repeated passages.

The reference for substring.py: plain, in memory, about 100 bytes for each byte of text.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from modelwright.data.dedup.hashing import Integers


def suffix_array(codes: Integers) -> tuple[Integers, list[Integers]]:
    """The places of the suffixes in sorted order, and the ranks of all places by their first 1, 2, 4, ...
    codes (equal ranks where those are equal), up to ranks that are all different."""
    _, ranks = np.unique(codes, return_inverse=True)
    levels = [ranks.astype(np.int64)]
    reach = 1
    while len(codes) and levels[-1].max() < len(codes) - 1:
        after = np.full(len(codes), -1)  # the end of the text comes first
        after[:-reach] = levels[-1][reach:]
        order = np.lexsort((after, levels[-1]))
        pairs = np.stack([levels[-1][order], after[order]])
        is_new = np.concatenate([[False], np.any(pairs[:, 1:] != pairs[:, :-1], axis=0)])
        ranks = np.empty(len(codes), np.int64)
        ranks[order] = np.cumsum(is_new)
        levels.append(ranks)
        reach *= 2
    return np.argsort(levels[-1], kind="stable"), levels


def common_prefixes(order: Integers, levels: Sequence[Integers]) -> Integers:
    """(n - 1,) how many codes each suffix has in common with the next in sorted order (the LCP array): for
    each power of two from above, whether that many more agree."""
    left, right = order[:-1].copy(), order[1:].copy()
    found = np.zeros(len(left), np.int64)
    for level in range(len(levels) - 1, -1, -1):
        padded = np.append(levels[level], -1)  # past the end nothing agrees
        ends = np.minimum(left, len(order)), np.minimum(right, len(order))
        is_equal = (padded[ends[0]] == padded[ends[1]]) & (ends[0] < len(order)) & (ends[1] < len(order))
        step = is_equal.astype(np.int64) << level
        left, right, found = left + step, right + step, found + step
    return found


def repeated_windows(documents: Sequence[bytes], length: int) -> NDArray[np.int64]:
    """The places, in all documents one after the other, where `length` bytes begin that do not reach over the
    end of their document, and that stand `length` or more bytes before as well. Sorted."""
    sizes = [len(document) for document in documents]
    text = np.frombuffer(b"".join(documents), np.uint8).astype(np.int64)
    ends = np.cumsum(sizes, dtype=np.int64)
    # After each document stands a code of its own, so that no common prefix reaches over its end.
    codes = np.insert(text, ends, 256 + np.arange(len(documents)))
    order, levels = suffix_array(codes)
    is_joined = common_prefixes(order, levels) >= length
    group = np.cumsum(np.concatenate([[True], ~is_joined])) - 1 if len(order) else order
    first = np.full(len(order), len(codes))
    np.minimum.at(first, group, order)
    place = order - np.searchsorted(ends + np.arange(len(documents)), order)  # without the ends' own codes
    before = first[group] - np.searchsorted(ends + np.arange(len(documents)), first[group])
    return np.sort(place[place - before >= length])

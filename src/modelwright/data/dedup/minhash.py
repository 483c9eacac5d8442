"""MinHash: a short signature of a text, from which its likeness to any other can be estimated.

Two texts are as alike as the sets of their runs of five words: shared runs over all runs (Jaccard). For one
random order of all runs, the chance that two sets have the same smallest is just that (Broder 1997). A
signature holds the smallest for `bands * rows` orders; the share of equal places in two signatures
estimates the likeness. Texts become candidates when all rows of any band agree: with probability
1 - (1 - s^rows)^bands at likeness s. The defaults are FineWeb's (arXiv 2406.17557): 14 bands of 8, which
find 0.924 of the pairs at 0.8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from modelwright.data.dedup import native, normal
from modelwright.data.dedup.hashing import WORDS, Hashes, mix, polynomials
from modelwright.data.dedup.settings import MinHash as Config

NOTHING = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Fills the signature, and is the band key, of a text without a word: it is like no other."""

_LOW52 = np.uint64((1 << 52) - 1)
"""Smallest hashes are of 52 bits: what processors multiply fast."""

_BATCH_BYTES = 1 << 22
_BLOCK_SHINGLES = 1 << 12


def signature(text: str, config: Config) -> Hashes:
    """(hashes,) uint64. Texts of fewer than `ngram` words have one run, all of their words."""
    return signatures([text], config)[0]


def signatures(texts: Iterable[str], config: Config) -> Hashes:
    """(texts, hashes) uint64, for each text its signature."""
    make = _compiled if native.library() is not None else _plain
    made = [make(batch, config) for batch in _batches(texts)]
    return np.concatenate(made) if made else np.empty((0, config.hashes), np.uint64)


def _batches(texts: Iterable[str]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(text.encode())
        size += len(batch[-1])
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _compiled(texts: Sequence[bytes], config: Config) -> Hashes:
    joined = np.frombuffer(b"".join(texts), np.uint8)
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    out = np.empty((len(texts), config.hashes), np.uint64)
    codes, many = normal.table()
    orders = _orders(config.hashes, config.seed)
    native.call(
        "signatures", joined, offsets, len(texts), codes, many, config.ngram, orders, config.hashes, out
    )
    return out


def _plain(texts: Sequence[bytes], config: Config) -> Hashes:
    orders = _orders(config.hashes, config.seed)
    out = np.full((len(texts), config.hashes), NOTHING)
    for row, text in zip(out, texts, strict=True):
        hashes = shingles(text.decode(), config.ngram)
        for start in range(0, len(hashes), _BLOCK_SHINGLES):
            ordered = hashes[start : start + _BLOCK_SHINGLES, None] * orders & _LOW52
            np.minimum(row, ordered.min(axis=0), out=row)
    return out


def shingles(text: str, ngram: int) -> Hashes:
    """The hash of every run of words, in order."""
    words = word_hashes(normal.normalise(text))
    size = min(ngram, len(words))
    if not size:
        return words
    starts = np.arange(len(words) - size + 1)
    return mix(polynomials(words, starts, starts + size, WORDS))


def word_hashes(normalised: str) -> Hashes:
    """The hash of every word between single spaces."""
    if not normalised:
        return np.empty(0, np.uint64)
    codes = np.frombuffer(normalised.encode("utf-32-le"), np.uint32)
    spaces = np.flatnonzero(codes == ord(" "))
    starts, ends = np.append(0, spaces + 1), np.append(spaces, len(codes))
    return mix(polynomials(codes, starts, ends))


@cache
def _orders(hashes: int, seed: int) -> Hashes:
    """An order of hashes for each place: x -> a x modulo 2^52, a bijection of 52 bits as a is odd. The hashes
    are mixed already, so multiplying them is enough to make orders that have nothing to do with each other.
    """
    return np.random.default_rng(seed).integers(0, 1 << 52, hashes, np.uint64) | np.uint64(1)


def band_keys(signatures: Hashes, config: Config) -> Hashes:
    """(..., hashes) -> (..., bands) uint64: one hash for each band, NOTHING where there is no word."""
    rows = signatures.reshape(*signatures.shape[:-1], config.bands, config.rows)
    keys = rows[..., 0]
    for place in range(1, config.rows):
        keys = mix(keys * np.uint64(WORDS) + rows[..., place])
    return np.where(np.all(rows == NOTHING, axis=-1), NOTHING, mix(keys))


def estimated_jaccard(left: Hashes, right: Hashes) -> NDArray[np.float64]:
    """The share of equal places in two signatures, or in pairs of them: (..., hashes) -> (...)."""
    return np.mean(left == right, axis=-1)


def jaccard(left: str, right: str, config: Config) -> float:
    """The likeness itself: shared runs of words over all runs. 0 where neither text has a word."""
    one, other = (np.unique(shingles(text, config.ngram)) for text in (left, right))
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / max(len(one) + len(other) - shared, 1)

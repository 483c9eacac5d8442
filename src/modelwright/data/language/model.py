"""fastText's language model lid.176, read from its file.

A linear model (arXiv:1607.01759): the mean of the vectors of a text's words, and of the 2 to 4 characters
long pieces of those words, goes down a binary tree whose leaves are the languages. The file is the
compressed one (arXiv:1612.03651): vectors that matter little are gone, the others are quantized.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelwright.base.errors import DamagedFile

DIM = 16
"""Numbers in a vector: all that the compiled path is written for."""
MAX_PIECE = 64
"""Characters of a piece."""
_MAGIC, _VERSION, _HIERARCHICAL_SOFTMAX = 793_712_314, 12, 1
_CENTROIDS = 256
_LABEL = b"__label__"
_MANY = 10**15
"""Stands for the count of a node that is not made yet."""


@dataclass(frozen=True, slots=True, eq=False)
class LanguageModel:
    """W words, G pieces, L languages."""

    words: tuple[bytes, ...]
    """(W,) in UTF-8; row i of `vectors` is word i's."""
    languages: tuple[str, ...]
    """(L,) codes, the most frequent first."""
    pieces: NDArray[np.int32]
    """(G,) ascending: which of the buckets of hashed pieces have a vector, the rows behind those of words."""
    num_buckets: int
    shortest: int
    longest: int
    """Lengths of pieces, in characters."""
    vectors: NDArray[np.float32]
    """(W + G, DIM)"""
    nodes: NDArray[np.float32]
    """(L, DIM): of each inner node of the tree, what is laid over a text's vector; the last is not used."""
    children: NDArray[np.int32]
    """(L - 1, 2): of each inner node the left and the right one: below L a language, else inner node L + i.
    The last is the root."""


def read_model(path: Path) -> LanguageModel:
    """Raises DamagedFile for a file that is none, and for models of another kind."""
    try:
        return _read(_Reader(path.read_bytes()))
    except (struct.error, ValueError, IndexError, OSError) as error:
        raise DamagedFile(f"{path} is no language model of the kind lid.176.ftz: {error}") from error


class _Reader:
    """Little-endian numbers, one behind the other."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def numbers(self, kinds: str) -> tuple[int, ...]:
        found = struct.unpack_from(f"<{kinds}", self._content, self._at)
        self._at += struct.calcsize(f"<{kinds}")
        return found

    def string(self) -> bytes:
        end = self._content.index(b"\0", self._at)
        found, self._at = self._content[self._at : end], end + 1
        return found

    def array(self, kind: str, *shape: int) -> NDArray[Any]:
        found = np.frombuffer(self._content, kind, math.prod(shape), self._at).reshape(shape)
        self._at += found.nbytes
        return found


def _read(file: _Reader) -> LanguageModel:
    magic, version, dim, *_, word_ngrams, loss, _, num_buckets, shortest, longest, _ = file.numbers("14i")
    file.numbers("d")
    _expect("magic, version", (magic, version), (_MAGIC, _VERSION))
    _expect("dimension, loss, word n-grams", (dim, loss, word_ngrams), (DIM, _HIERARCHICAL_SOFTMAX, 1))
    num_entries, num_words, num_labels, _, num_pieces = file.numbers("iiiqq")
    entries = [(file.string(), *file.numbers("qb")) for _ in range(num_entries)]
    labels = entries[num_words:]
    _expect("labels", len(labels), num_labels)
    if not (num_words > 0 and all(0 < count < _MANY for _, count, _ in labels)):
        raise ValueError(f"{num_words} words, or counts of labels out of range")
    if not (2 <= shortest <= longest <= MAX_PIECE and num_labels > 1 and 0 < num_pieces <= num_buckets):
        raise ValueError(f"pieces of {shortest} to {longest} characters, {num_pieces} of {num_buckets}")
    kept = file.array("<i4", num_pieces, 2).astype(np.int32)
    _expect("quantized", file.numbers("?"), (True,))
    vectors = _quantized(file)
    _expect("rows", len(vectors), num_words + num_pieces)
    _expect("output quantized, rows, columns", file.numbers("?qq"), (False, num_labels, DIM))
    nodes = file.array("<f4", num_labels, DIM).astype(np.float32)
    kept = kept[np.argsort(kept[:, 0])]
    pieces, places = kept.T
    if np.any(np.diff(pieces) <= 0) or pieces[0] < 0 or pieces[-1] >= num_buckets:
        raise ValueError("buckets of pieces out of range, or twice")
    rows = np.concatenate([np.arange(num_words), num_words + places.astype(np.int64)])
    return LanguageModel(
        words=tuple(word for word, _, _ in entries[:num_words]),
        languages=tuple(label.removeprefix(_LABEL).decode() for label, _, _ in labels),
        pieces=np.ascontiguousarray(pieces),
        num_buckets=num_buckets,
        shortest=shortest,
        longest=longest,
        vectors=np.ascontiguousarray(vectors[rows]),
        nodes=nodes,
        children=huffman([count for _, count, _ in labels]),
    )


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise ValueError(f"{what}: found {found}, expected {wanted}")


def _quantized(file: _Reader) -> NDArray[np.float32]:
    """(rows, DIM): each row is a length times a direction, whose pairs of numbers are centroids by code."""
    with_norm, rows, columns, num_codes = file.numbers("?qqi")
    _expect("norms, columns", (with_norm, columns), (True, DIM))
    codes = file.array("u1", num_codes)
    centroids = _centroids(file, DIM)
    codes = codes.reshape(rows, len(centroids))
    norm_codes = file.array("u1", rows)
    norms = _centroids(file, 1)[0, :, 0]
    directions = np.concatenate([part[codes[:, place]] for place, part in enumerate(centroids)], axis=1)
    return (directions * norms[norm_codes, None]).astype(np.float32)


def _centroids(file: _Reader, dim: int) -> NDArray[np.float32]:
    """(parts, 256, dim / parts)"""
    found, parts, width, last = file.numbers("4i")
    _expect("width of parts", (found, parts * width, last), (dim, dim, width))
    return file.array("<f4", parts, _CENTROIDS, width).astype(np.float32)


def huffman(counts: list[int]) -> NDArray[np.int32]:
    """(L - 1, 2): the two rarest nodes are joined until one is left, fastText's way with ties. `counts`
    descend."""
    rarest, joined = len(counts) - 1, len(counts)
    total = [*counts, *[_MANY] * (len(counts) - 1)]
    children: list[tuple[int, int]] = []
    for inner in range(len(counts), len(total)):
        pair: list[int] = []
        for _ in range(2):
            if rarest >= 0 and total[rarest] < total[joined]:
                pair.append(rarest)
                rarest -= 1
            else:
                pair.append(joined)
                joined += 1
        total[inner] = total[pair[0]] + total[pair[1]]
        children.append((pair[0], pair[1]))
    return np.array(children, np.int32)

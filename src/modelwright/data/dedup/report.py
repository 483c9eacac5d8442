"""What the clusters of near duplicates of a corpus look like: how many, how large, and examples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelwright.data.dedup.cluster import Clusters
from modelwright.data.dedup.hashing import Integers


@dataclass(frozen=True, slots=True)
class Example:
    """A document of a cluster, for the reader of a report."""

    id: str
    source: str
    text: str
    """How it begins."""


@dataclass(frozen=True, slots=True)
class Largest:
    """One of the largest clusters."""

    size: int
    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What the clusters of a corpus look like."""

    documents: int
    clusters: int
    """Of two documents and more."""
    duplicates: int
    """Documents that are not the first of their cluster."""
    histogram: tuple[tuple[int, int], ...]
    """(size, how many clusters have at least this size and less than twice it), from 2 on."""
    largest: tuple[Largest, ...]


EXAMPLE_CHARACTERS = 200


def report(
    found: Clusters, describe: Callable[[int], tuple[str, str, str]], largest: int = 10, examples: int = 5
) -> Report:
    """Counts, and the `largest` clusters with the first `examples` documents of each.

    `describe` gives (id, source, text) of the document at a place in the corpus.
    """
    sizes = found.make_array(len(found.parent), "sizes")
    for rows in found.slices():
        np.add.at(sizes, found.parent[rows], 1)
    counts = np.zeros(64, np.int64)
    tops = np.empty(0, np.int64)
    clusters = duplicates = 0
    for rows in found.slices():
        part = np.flatnonzero(sizes[rows] > 1) + rows.start
        exponents = np.frexp(sizes[part].astype(np.float64))[1] - 1  # of the power of two at or below
        counts += np.bincount(exponents, minlength=64)
        clusters += len(part)
        duplicates += int(sizes[part].sum()) - len(part)
        tops = np.concatenate([tops, part])
        tops = tops[np.lexsort((tops, -sizes[tops]))][:largest]
    members = _members(found, tops, examples)
    shown = [
        Largest(int(sizes[top]), tuple(_example(describe(row)) for row in members[top]))
        for top in tops.tolist()
    ]
    histogram = tuple((1 << power, int(count)) for power, count in enumerate(counts) if count)
    return Report(len(sizes), clusters, duplicates, histogram, tuple(shown))


def _members(found: Clusters, tops: Integers, examples: int) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {top: [] for top in tops.tolist()}
    for rows in found.slices():
        parents = np.asarray(found.parent[rows])
        for top, known in members.items():
            if len(known) < examples:
                new = np.flatnonzero(parents == top)[: examples - len(known)] + rows.start
                known.extend(new.tolist())
    return members


def _example(facts: tuple[str, str, str]) -> Example:
    identity, source, text = facts
    return Example(identity, source, text[:EXAMPLE_CHARACTERS])

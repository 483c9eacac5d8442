"""Decontamination as a data step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.decontaminate.index import Hit, Index
from modelwright.data.rewrite import rewritten

RULE = "contaminated"


def step(index: Index, action: Literal["drop", "cut"] = "drop") -> Step:
    """A Step that drops documents in which an evaluation item stands, or cuts the item out of them.

    Dropping is the default: text around an item often discusses it. A document from which something was cut
    says so in meta["decontaminated"]; one of which nothing is left is dropped.
    """

    def decontaminated(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            best = index.check(document.text)
            if best is None:
                yield document
                continue
            if action == "cut":
                text, items = without_items(document.text, index)
                if text.strip():
                    yield rewritten(document, text, {"decontaminated": sorted(items)})
                    continue
            drop(document, Reason(RULE, round(best.score, 4), str(best)))

    return decontaminated


def without_items(text: str, index: Index) -> tuple[str, set[str]]:
    """What is left of a text, and the items that were cut out of it. It is looked through again after each
    cut: what stood around an item may have been another one that it interrupted."""
    items: set[str] = set()
    while hits := index.find(text):
        text = cut(text, hits)
        items.update(map(str, hits))
    return text, items


def cut(text: str, hits: Sequence[Hit]) -> str:
    """The text without the spans of the hits, which may overlap."""
    kept: list[str] = []
    end = 0
    for hit in sorted(hits, key=lambda hit: hit.start):
        if hit.start > end:
            kept.append(text[end : hit.start])
        end = max(end, hit.end)
    return "".join([*kept, text[end:]])

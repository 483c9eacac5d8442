"""A chain of Steps with a count at every joint: where each document went can always be said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.rewrite import rewritten

Record = Callable[[str, Document, Reason], None]
"""Gets (step, document, reason) of every document that a step drops."""


@dataclass(slots=True)
class Flow:
    """What came out of a step so far."""

    step: str
    documents: int = 0
    bytes: int = 0
    dropped: int = 0

    def count(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The same documents, counted as they pass. An error that comes up here first is told by the step."""
        try:
            for document in documents:
                self.documents += 1
                self.bytes += len(document.text.encode())
                yield document
        except Exception as error:
            if not hasattr(error, "__notes__"):
                error.add_note(f"the step '{self.step}'")
            raise


def chain(
    documents: Iterable[Document], steps: Sequence[tuple[str, Step]], record: Record
) -> tuple[Iterator[Document], list[Flow]]:
    """Documents through all steps, lazily, and the flows (first "read", then one a step), which are
    complete when the documents are used up."""
    flows = [Flow("read")]
    stream = flows[0].count(documents)
    for name, step in steps:
        flow = Flow(name)
        stream = flow.count(step(stream, _dropper(flow, record)))
        flows.append(flow)
    return stream, flows


def one_by_one(step: Step) -> Step:
    """The same Step with each document alone, so that it takes none in before it is through with the last.
    For Steps that look at each document alone: what comes out is the same."""

    def alone(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            yield from step(iter((document,)), drop)

    return alone


def _dropper(flow: Flow, record: Record) -> Drop:
    def drop(document: Document, reason: Reason) -> None:
        flow.dropped += 1
        record(flow.step, document, reason)

    return drop


def judging(judge: Callable[[Document], Reason | None]) -> Step:
    """A Step that looks at each document alone: those with a reason go."""

    def step(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            reason = judge(document)
            if reason is None:
                yield document
            else:
                drop(document, reason)

    return step


def changing(change: Callable[[str], str]) -> Step:
    """A Step that rewrites the text of each document; the id follows the text."""

    def step(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            text = change(document.text)
            yield document if text == document.text else rewritten(document, text)

    return step


def _empty(document: Document) -> Reason | None:
    return None if document.text.strip() else Reason("empty", says="nothing but white space")


drop_empty = judging(_empty)
"""A Step: texts without a letter to see go."""

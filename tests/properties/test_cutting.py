"""For any text and any ranges: what is cut out is exactly them, and what is left keeps its order."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data.decontaminate.index import Hit, Index
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.decontaminate.step import cut, step
from modelwright.data.dedup.ranges import Removal, remove
from modelwright.data.rewrite import former_ids

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@st.composite
def letters_in_ranges(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text, and ranges of whole letters in order and apart from each other, as duplicates are."""
    text = draw(TEXTS)
    places = draw(st.lists(st.integers(0, len(text)), max_size=8, unique=True))
    bounds = sorted(places)[: len(places) // 2 * 2]
    return text, list(zip(bounds[::2], bounds[1::2], strict=True))


def without(text: str, ranges: list[tuple[int, int]]) -> str:
    """The plainest way to cut: letter by letter."""
    return "".join(
        letter for place, letter in enumerate(text) if not any(start <= place < end for start, end in ranges)
    )


@given(letters_in_ranges(), st.none() | st.floats(0, 1), st.booleans())
def test_repeated_parts_go_and_nothing_else(
    held: tuple[str, list[tuple[int, int]]], most: float | None, cuts: bool
) -> None:
    text, ranges = held
    document = Document(text=text, id=sha256_text(text), source="a")
    in_bytes = [(len(text[:start].encode()), len(text[:end].encode())) for start, end in ranges]
    made = remove(document, in_bytes, Removal(drop_above=most, cut=cuts))
    left = without(text, ranges)
    share = 1 - len(left.encode()) / max(1, len(text.encode()))
    if isinstance(made, Reason):
        assert ranges and (not left or (most is not None and share > most - 1e-9))
    elif not ranges or not cuts:
        assert made is document
    else:
        assert (made.text, made.id) == (left, sha256_text(left)) and former_ids(made.meta) == [document.id]
        assert most is None or share < most + 1e-9


@given(TEXTS, st.data())
def test_the_spans_of_items_go_and_nothing_else(text: str, data: st.DataObject) -> None:
    """They may overlap, and come in any order."""
    bounds = st.tuples(st.integers(0, len(text)), st.integers(0, len(text))).map(sorted)
    spans = [(start, end) for start, end in data.draw(st.lists(bounds, max_size=5))]
    hits = [Hit("s", "1", 1.0, start, end, "question") for start, end in spans]
    assert cut(text, hits) == without(text, spans)


KEEPERS, DOORS = ("lighthouse", "museum", "railway", "orchard"), ("harbour", "cellar", "garden", "chapel")
QUESTIONS = [
    f"Which of the seven {keeper} keepers painted the wooden {door} door number {number} before winter came?"
    for number, (keeper, door) in enumerate((keeper, door) for keeper in KEEPERS for door in DOORS)
]
BESIDE = [
    "Nobody had painted the door before.",
    "Winter came.",
    "It was said, though, that ",
    "\n\n",
    "国é👍",
]


@cache
def index() -> Index:
    fillers = [EvalItem("s", f"filler {number}", f"word{number} of no weight") for number in range(200)]
    return Index.build([*(EvalItem("s", question, question) for question in QUESTIONS), *fillers])


@st.composite
def interrupted(draw: st.DrawFn) -> str:
    """A question with something in its midst."""
    question, other = draw(st.sampled_from(QUESTIONS)), draw(st.sampled_from([*QUESTIONS, *BESIDE]))
    place = draw(st.integers(0, len(question)))
    return question[:place] + f" {other} " + question[place:]


@given(st.lists(st.one_of(st.sampled_from([*QUESTIONS, *BESIDE]), interrupted()), max_size=6).map(" ".join))
@settings(max_examples=60, deadline=None)
def test_what_is_left_holds_no_item(text: str) -> None:
    document = Document(text=text, id=sha256_text(text), source="a")
    dropped: list[Reason] = []
    kept = list(step(index(), "cut")(iter([document]), lambda _, reason: dropped.append(reason)))
    stays = list(step(index())(iter([document]), lambda *_: None))
    hits = index().find(text)
    assert stays == ([] if hits else [document])
    if not hits:
        assert kept == [document]
    for made in kept:
        assert index().check(made.text) is None
        assert made.id == sha256_text(made.text)
    assert len(kept) + len(dropped) == 1

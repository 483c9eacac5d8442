"""Facts have one canonical sentence each, and no question has two contradicting answers."""

from __future__ import annotations

from collections import defaultdict

import pytest

from modelwright.data.atlas.facts import RELATIONS, facts, prefix, statement
from modelwright.data.atlas.phrasing import STATEMENTS, fill
from modelwright.data.atlas.world import load_world

WORLD = load_world()


def test_relations_are_all_there_and_never_empty() -> None:
    assert set(STATEMENTS) == set(RELATIONS)
    for relation in RELATIONS:
        made = facts(WORLD, relation)
        assert made and all(fact.relation == relation and fact.answer for fact in made)
    assert sum(len(facts(WORLD, relation)) for relation in RELATIONS) == len(facts(WORLD))


@pytest.mark.parametrize(
    ("relation", "sentence"),
    [
        ("capital", "The capital of France is Paris."),
        ("capital", "The capital of the Netherlands is Amsterdam."),
        ("capital_of", "The country whose capital is Paris is France."),
        ("currency", "The currency of Japan is the Japanese yen."),
        ("element_symbol", "The chemical symbol for gold is Au."),
        ("planet_order", "Counting from the Sun, Earth is planet number 3."),
        ("month_after", "The month after December is January."),
        ("weekday_before", "The day before Monday is Sunday."),
        ("animal_young", "The young of an owl is called an owlet."),
        ("thing_purpose", "A knife is used for cutting food."),
    ],
)
def test_canonical_sentences(relation: str, sentence: str) -> None:
    assert sentence in {statement(fact) for fact in facts(WORLD, relation)}


def test_a_prefix_leads_straight_to_the_answer() -> None:
    for fact in facts(WORLD):
        assert statement(fact) == f"{prefix(fact)} {fact.answer}."


def test_no_prefix_has_two_answers() -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for fact in facts(WORLD):
        answers[prefix(fact)].add(fact.answer)
    assert {key: value for key, value in answers.items() if len(value) > 1} == {}


def test_accepted_answers_are_others() -> None:
    for fact in facts(WORLD):
        assert len(set(fact.answers)) == len(fact.answers), fact
        assert all(fact.answers), fact


def test_every_phrasing_can_be_filled() -> None:
    for relation in RELATIONS:
        fact = facts(WORLD, relation)[0]
        for template in STATEMENTS[relation]:
            text = fill(template, fact)
            assert "{" not in text and text[0] == text[0].upper()
            assert text.endswith(".")

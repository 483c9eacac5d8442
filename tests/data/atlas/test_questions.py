from __future__ import annotations

import re

import pytest

from modelwright.data.atlas.documents import documents
from modelwright.data.atlas.facts import RELATIONS, Fact, facts
from modelwright.data.atlas.questions import (
    ask,
    ask_about,
    bare_name,
    held_out_facts,
    is_held_out,
    known_facts,
    phrasings,
    training_questions,
)
from modelwright.data.atlas.splits import Split
from modelwright.data.atlas.world import load_world

WORLD = load_world()
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def _inside(part: str, whole: str) -> bool:
    """Whether all words of one phrasing, three or more, stand in a row in the other."""
    few, many = (
        " ".join(re.findall(r"\w+", re.sub(r"\{\w+\}", "X", text).lower())) for text in (part, whole)
    )
    return len(few.split()) >= 3 and f" {few} " in f" {many} "


def test_inside_sees_a_phrasing_in_another() -> None:
    assert _inside("What is {owner} capital?", "Well, what is {subject} capital, please?")
    assert not _inside("What is {owner} capital?", "Which capital is {owner}?")


@pytest.mark.parametrize("relation", RELATIONS)
def test_each_relation_has_phrasings_for_training_and_others_for_tests(relation: str) -> None:
    training, validation, held_out = (phrasings(relation, split) for split in SPLITS)
    assert len(training) >= 8
    assert len(validation) >= 3
    assert len(held_out) >= 3
    everything = [re.sub(r"\W|\{\w+\}", "", text).lower() for text in (*training, *validation, *held_out)]
    assert len(set(everything)) == len(everything)
    for template in held_out:  # nor a training phrasing with a sentence around it
        assert not any(_inside(seen, template) or _inside(template, seen) for seen in training)
    for template in (*training, *validation, *held_out):
        assert template[-1] in "?."
        assert set(re.findall(r"\{(\w+)\}", template)) <= {"subject", "name", "owner"}
        assert template.count("{") == 1


def test_pre_training_holds_no_phrasing_of_the_tests() -> None:
    """Asked of forty facts of each relation, in a corpus that asks for most of them."""
    text = "\n".join(document.text for document in documents(seed=3, size_bytes=300_000))
    for relation in RELATIONS:
        for template in (*phrasings(relation, "validation"), *phrasings(relation, "test")):
            for fact in facts(WORLD, relation)[:40]:
                assert ask(template, fact) not in text


def test_questions_are_well_formed() -> None:
    assert ask_about("{owner} capital?", "the Netherlands") == "The Netherlands' capital?"
    assert ask_about("What is {owner} capital?", "France") == "What is France's capital?"
    assert ask_about("{subject}: what is it for?", "an umbrella") == "An umbrella: what is it for?"
    assert ask_about("A young {name}?", "a cow") == "A young cow?"
    assert bare_name("the Gambia") == "Gambia"
    assert bare_name("Andorra") == "Andorra"
    for relation in RELATIONS:
        for template in (template for split in SPLITS for template in phrasings(relation, split)):
            for fact in facts(WORLD, relation):
                question = ask(template, fact)
                assert not re.search(r"[{}]|  |\b(?:an?|the) (?:an?|the) ", question), question
                assert not re.search(r"\ba (?!use)[aeiou]|\ban [^aeiouAEIOU]", question), question


def test_about_a_tenth_of_the_facts_is_held_out() -> None:
    assert {*known_facts(), *held_out_facts()} == set(facts(WORLD))
    assert 0.08 <= len(held_out_facts()) / len(facts(WORLD)) <= 0.14
    for relation in RELATIONS:
        if len(facts(WORLD, relation)) > 50:
            assert 0.03 <= len(held_out_facts(relation)) / len(facts(WORLD, relation)) <= 0.25, relation


def test_a_fact_is_held_out_from_both_ends() -> None:
    for straight, turned in (
        ("capital", "capital_of"),
        ("element_symbol", "element_of_symbol"),
        ("element_number", "element_of_number"),
        ("month_after", "month_before"),
        ("weekday_after", "weekday_before"),
    ):
        hidden = {(fact.subject, fact.answer) for fact in held_out_facts(straight)}
        others = (fact for fact in facts(WORLD, turned) if is_held_out(fact))
        assert hidden == {(fact.answer, fact.subject) for fact in others}
    other = Fact("capital", "France", "Lyon")
    assert is_held_out(other) == is_held_out(Fact("capital", "France", "Paris"))


def test_training_and_validation_share_no_question_about_a_fact() -> None:
    validated = 0
    for fact in known_facts():
        training = training_questions(fact, "train")
        validation = training_questions(fact, "validation")
        assert len(training) >= 1
        assert set(training).isdisjoint(validation)
        validated += len(validation)
    assert validated > 1_000

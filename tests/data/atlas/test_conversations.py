from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from hashlib import sha256

import pytest

from modelwright.base.schema import Conversation, Preference, Role
from modelwright.data.atlas.conversations import (
    DOUBLED,
    KIND_SHARES,
    MOST_TURNS,
    NEXT_TURN_SHARE,
    VERBOSE_SHARE,
    conversations,
)
from modelwright.data.atlas.facts import facts, statement
from modelwright.data.atlas.invented import split_of_invented
from modelwright.data.atlas.preferences import preferences
from modelwright.data.atlas.questions import (
    CASUAL_SHARE,
    ask,
    ask_about,
    casual,
    frames,
    held_out_facts,
    known_facts,
    phrasings,
    training_questions,
)
from modelwright.data.atlas.splits import Part, operands_split
from modelwright.data.atlas.world import load_world

COUNT = 6_000
BEFORE, AFTER = ("|".join(map(re.escape, frames(place))) for place in ("before", "after"))
FRAME = re.compile(f"^({BEFORE}) | ({AFTER})$")
WORLD = load_world()


@cache
def made() -> tuple[Conversation, ...]:
    return tuple(conversations(0, COUNT, "train"))


def said(role: Role) -> list[str]:
    return [
        FRAME.sub("", message.content) for each in made() for message in each.messages if message.role == role
    ]


@cache
def pairs() -> tuple[Preference, ...]:
    return tuple(preferences(0, 2_000, "train"))


def pairs_said() -> list[str]:
    return [text for pair in pairs() for text in (pair.chosen, pair.rejected)]


def pairs_asked() -> list[str]:
    return [FRAME.sub("", pair.prompt[-1].content) for pair in pairs()]


def test_shapes_are_sound() -> None:
    assert len(made()) == COUNT
    for each in made():
        roles = [message.role for message in each.messages if message.role != "system"]
        assert roles == ["user", "assistant"] * len(each.meta["kinds"])
        assert all(message.content.strip() == message.content != "" for message in each.messages)
        assert not any(re.search(r"[{}]", m.content) for m in each.messages if "format" not in str(each.meta))


def test_kinds_have_their_shares() -> None:
    kinds = Counter(each.meta["kinds"][0].partition("/")[0] for each in made())
    for kind, share in KIND_SHARES.items():
        assert abs(kinds[kind] / COUNT - share) < 0.001
    several = sum(len(each.meta["kinds"]) > 1 for each in made()) / COUNT
    assert abs(several - NEXT_TURN_SHARE) < 0.03
    assert {len(each.meta["kinds"]) for each in made()} == set(range(1, MOST_TURNS + 1))
    verbose = sum(each.meta["style"] == "verbose" for each in made()) / COUNT
    assert abs(verbose - VERBOSE_SHARE) < 0.03


def test_every_known_fact_is_asked_for_and_every_capital_and_reversed_one_three_times() -> None:
    asked = Counter(tuple(fact) for each in made() for fact in each.meta["facts"])
    for fact in known_facts():
        least = 3 if fact.relation in DOUBLED else 1
        assert asked[fact.relation, fact.subject] >= least, fact


def test_a_fact_is_asked_for_in_several_phrasings() -> None:
    questions = {casual(question) for question in said("user")}
    for fact in known_facts("capital"):
        asked = {casual(question) for question in training_questions(fact, "train")}
        assert len(questions & asked) >= 2, fact


def test_some_questions_are_typed_in_haste() -> None:
    questions = [message.content for each in made() for message in each.messages if message.role == "user"]
    share = sum(question == casual(question) for question in questions) / len(questions)
    assert 0.5 * CASUAL_SHARE < share < 2 * CASUAL_SHARE


def test_verbose_answers_hold_the_answer_and_are_longer() -> None:
    words: dict[str, list[int]] = {"concise": [], "verbose": []}
    answers = {ask(t, fact): fact for fact in known_facts() for t in phrasings(fact.relation, "train")}
    for each in made():
        question, answer = FRAME.sub("", each.messages[-2].content), each.messages[-1].content
        if question in answers and each.meta["kinds"] == ["fact"]:
            assert statement(answers[question]) in answer
            words[each.meta["style"]].append(len(answer.split()))
    concise, verbose = (sum(counts) / len(counts) for counts in (words["concise"], words["verbose"]))
    assert concise < 9
    assert 2.5 * concise < verbose < 35


@pytest.mark.parametrize("texts", [lambda: said("assistant"), pairs_said], ids=["sft", "pairs"])
def test_held_out_facts_are_never_stated(texts: Callable[[], list[str]]) -> None:
    text = "\n".join(texts()).casefold()
    for fact in held_out_facts():
        sentence = statement(fact).casefold().removesuffix(".")
        assert not any(f"{sentence}{end}" in text for end in ". ,\n"), fact


def test_held_out_capitals_are_never_named() -> None:
    text = "\n".join([*said("assistant"), *pairs_said()])
    names = " ".join(country.name for country in WORLD.countries)
    others = {fact.answer for fact in known_facts()}
    hidden = [
        fact for fact in held_out_facts("capital") if fact.answer not in others and fact.answer not in names
    ]
    assert len(hidden) > 10
    for fact in hidden:
        assert fact.answer not in text, fact


@pytest.mark.parametrize("texts", [lambda: said("user"), pairs_asked], ids=["sft", "pairs"])
def test_held_out_facts_and_phrasings_are_never_asked(texts: Callable[[], list[str]]) -> None:
    questions = {casual(question) for question in texts()}
    for fact in held_out_facts():
        assert questions.isdisjoint(casual(ask(t, fact)) for t in phrasings(fact.relation, "train")), fact
    for fact in facts(WORLD):
        for split in ("validation", "test"):
            assert questions.isdisjoint(casual(ask(t, fact)) for t in phrasings(fact.relation, split)), fact
    for relation in ("capital", "continent", "currency", "language", "neighbour"):
        for template in (*phrasings(relation, "validation"), *phrasings(relation, "test")):
            pattern = re.sub(r"\\\{\w+\\\}", ".+", re.escape(template))
            assert re.match(pattern, ask_about(template, "Zorvania"))
            assert not [question for question in questions if re.match(pattern, question)], template


def test_held_out_calculations_never_occur() -> None:
    signs = {"plus": "+", "minus": "-", "times": "*", "+": "+", "-": "-", "*": "*"}
    text = "\n".join([*said("user"), *said("assistant")])
    found = re.findall(r"(\d+) (\+|-|\*|plus|minus|times) (\d+)", text)
    assert len(found) > 500
    for left, sign, right in found:
        assert operands_split(signs[sign], int(left), int(right)) == "train"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_invented_countries_are_of_their_split(split: Part) -> None:
    names = {name for each in conversations(1, 2_500, split) for name in each.meta["invented"]}
    for pair in preferences(1, 800, split):
        if pair.meta["kind"] == "unknown_over_invention":
            told = re.search(r"The capital of (.+?) is ", pair.rejected)
            names |= {told[1]} - {fact.subject for fact in facts(load_world(), "capital")} if told else set()
    assert len(names) > 150
    assert {split_of_invented(name) for name in names} == {split}


def test_validation_asks_what_training_does_not() -> None:
    training = {m.content for each in made() for m in each.messages if m.role == "user"}
    for each in conversations(0, 1_000, "validation"):
        if each.meta["kinds"][0] in ("fact", "unknown") or "format" in each.meta["kinds"][0]:
            asked = next(m.content for m in each.messages if m.role == "user")
            assert asked not in training


def test_the_same_arguments_give_the_same_text_in_every_process() -> None:
    def digest() -> str:
        return sha256(repr((conversations(3, 200), preferences(3, 200))).encode()).hexdigest()

    code = (
        "from hashlib import sha256\n"
        "from modelwright.data.atlas.conversations import conversations\n"
        "from modelwright.data.atlas.preferences import preferences\n"
        "print(sha256(repr((conversations(3, 200), preferences(3, 200))).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
    assert digest() == done.stdout.decode().strip()
    assert conversations(3, 50) != conversations(4, 50)
    assert conversations(3, 50) != conversations(3, 50, "validation")

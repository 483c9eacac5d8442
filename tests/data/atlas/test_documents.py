"""What is generated is deterministic, true, even, and reads as promised."""

from __future__ import annotations

import doctest
import hashlib
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache

import pytest

from modelwright.base.schema import Document
from modelwright.data.atlas.documents import GENRES, documents
from modelwright.data.atlas.facts import RELATIONS, Fact, facts, statement
from modelwright.data.atlas.genres.fact_lists import USUAL_WEIGHT, WEIGHTS
from modelwright.data.atlas.genres.stories import SCENES, tell
from modelwright.data.atlas.phrasing import STATEMENTS, fill
from modelwright.data.atlas.questions import phrasings
from modelwright.data.atlas.skills import result_of
from modelwright.data.atlas.splits import operands_split, split_of
from modelwright.data.atlas.world import load_world

WORLD = load_world()
TWO_MB = 2_000_000
WORDS = {"plus": "+", "minus": "-", "times": "*"}


@cache
def corpus() -> tuple[Document, ...]:
    return tuple(documents(seed=0, size_bytes=TWO_MB))


@cache
def everything() -> str:
    return "\n".join(document.text for document in corpus())


def of(genre: str) -> list[str]:
    return [document.text for document in corpus() if document.meta["genre"] == genre]


def digest(seed: int, size: int) -> str:
    text = "\x00".join(document.text for document in documents(seed, size))
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_same_seed_and_size_give_the_same_bytes() -> None:
    assert digest(5, 100_000) == digest(5, 100_000)
    assert digest(5, 100_000) != digest(6, 100_000)


def test_hash_randomization_changes_nothing() -> None:
    """Another process, where sets and dicts of strings hash otherwise, writes the same."""
    program = (
        "import hashlib; from modelwright.data.atlas.documents import documents;"
        'text = "\\x00".join(document.text for document in documents(5, 30_000));'
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    for hash_seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == digest(5, 30_000)


def test_documents_say_what_they_are() -> None:
    size = sum(len(document.text.encode()) for document in corpus())
    assert TWO_MB <= size <= TWO_MB + 3000
    assert len({document.id for document in corpus()}) == len(corpus())
    for document in corpus()[:50]:
        assert document.id == hashlib.sha256(document.text.encode()).hexdigest()
        assert (document.source, document.personal_data) == ("atlas", False)
        assert document.licence == "CC-BY-4.0"


def test_genres_have_their_shares() -> None:
    assert sum(share for _, share in GENRES.values()) == pytest.approx(1)
    written: Counter[str] = Counter()
    for document in corpus():
        written[document.meta["genre"]] += len(document.text.encode())
    for genre, (_, share) in GENRES.items():
        assert written[genre] / TWO_MB == pytest.approx(share, abs=0.005), genre


def test_documents_are_neither_tiny_nor_long() -> None:
    lengths = [len(document.text) for document in corpus()]
    assert min(lengths) >= 60 and max(lengths) <= 1500
    assert sum(length < 150 for length in lengths) / len(lengths) < 0.05


def test_text_is_clean() -> None:
    assert not re.search(
        r"[{}]|  +\w|\.\.|\ba a\b|\bNone\b", re.sub(r"(?s)def .*?(?=\n\n\n|\Z)", "", everything())
    )
    for document in corpus():
        assert document.text == document.text.strip()


def test_facts_come_up_often_and_evenly() -> None:
    """In their rounds, the facts of a relation are told equally often, give or take a round."""
    told = tellings()
    rounds = min(told[fact] for fact in facts(WORLD, "capital_of")) // WEIGHTS["capital_of"]
    assert rounds >= 1
    for relation in RELATIONS:
        counts = [told[fact] for fact in facts(WORLD, relation)]
        weight = WEIGHTS.get(relation, USUAL_WEIGHT)
        assert min(counts) >= rounds * weight, relation
        if relation not in (
            "capital",
            "animal_sound",
        ):  # capitals also open documents; "A dog barks." is short
            assert max(counts) <= (rounds + 1) * weight, relation


def test_every_capital_is_often_told_in_the_plain_form() -> None:
    plain = [everything().count(statement(fact)) for fact in facts(WORLD, "capital")]
    assert min(plain) >= 5 and sum(plain) / len(plain) >= 12


def tellings() -> Counter[Fact]:
    """How often each fact is told in the lists, in whatever words."""
    sentences: Counter[str] = Counter()
    for text in of("fact_lists"):
        sentences.update(re.split(r"(?<=\.)(?<!St\.) |\n(?:- )?", text.removeprefix("- ")))
    return Counter(
        {
            fact: sum(
                sentences[text]
                for text in {statement(fact), *(fill(form, fact) for form in STATEMENTS[fact.relation])}
            )
            for fact in facts(WORLD)
        }
    )


def test_the_canonical_prefix_is_always_followed_by_the_capital() -> None:
    by_subject = {fact.subject: fact.answer for fact in facts(WORLD, "capital")}
    subjects = "|".join(re.escape(subject) for subject in by_subject)
    found = re.findall(rf"\b[Tt]he capital of ({subjects}) is ([^\n]*)", everything())
    assert len(found) > 2000
    for subject, rest in found:
        assert rest.startswith(by_subject[subject]), f"{subject}: {rest[:60]}"


def test_no_question_is_one_that_is_kept_for_tests() -> None:
    for relation in {fact.relation for fact in facts(WORLD)}:
        for template in phrasings(relation, "test"):
            pattern = re.sub(r"\\\{\w+\\\}", r"[^.?!\\n]{1,60}", re.escape(template))
            assert not re.search(pattern, everything()), template


def test_arithmetic_is_right_and_of_the_training_split() -> None:
    count: Counter[str] = Counter()
    for text in of("arithmetic"):
        for left, sign, right, result in re.findall(r"(\d+) ([-+*]) (\d+) = (\d+)", text):
            _check(sign, left, right, result)
            count[sign] += 1
        for left, word, right, result in re.findall(r"(\d+) (plus|minus|times) (\d+) is (\d+)", text):
            _check(WORDS[word], left, right, result)
            count[WORDS[word]] += 1
    assert min(count[sign] for sign in "+-*") > 300


def _check(sign: str, left: str, right: str, result: str) -> None:
    assert result_of(sign, int(left), int(right)) == int(result)
    assert operands_split(sign, int(left), int(right)) == "train", f"{left} {sign} {right}"


def test_functions_run_and_their_examples_hold() -> None:
    runner = doctest.DocTestRunner(verbose=False)
    for text in of("python_functions")[:60]:
        source = text[re.search(r"^def ", text, re.MULTILINE).start() :]  # type: ignore[union-attr]
        namespace: dict[str, object] = {}
        exec(compile(source, "document", "exec"), namespace)
        functions = [
            value for value in namespace.values() if getattr(value, "__doc__", None) and callable(value)
        ]
        for function in functions:
            for example in doctest.DocTestFinder().find(function, globs=namespace):
                assert example.examples
                assert runner.run(example).failed == 0, text


def test_stories_name_what_it_was() -> None:
    text = "\n".join(of("stories"))
    assert re.search(r"The animal didn't cross the (?:street|road) because it was too tired\.", text)
    assert re.search(r"The animal didn't cross the (?:street|road) because it was too wide\.", text)
    told = re.findall(r"didn't cross the (\w+) because it was too (tired|wide).*?\"it\" is the (\w+)", text)
    assert told
    for obstacle, reason, answer in told:
        assert (answer == obstacle) == (reason == "wide")


def test_stories_leave_the_pairs_of_the_test_split_alone() -> None:
    text = "\n".join(of("stories"))
    held_out = [
        scene.what.format(x=x, y=y)
        for scene in SCENES
        for x in scene.first
        for y in scene.second
        if split_of("story", scene.what, x, y) != "train"
    ]
    assert len(held_out) > 20
    assert [sentence for sentence in held_out if sentence in text] == []


def test_both_sides_of_a_scene_can_be_told() -> None:
    for scene in SCENES:
        x, y = scene.first[0], scene.second[0]
        for first in (True, False):
            assert tell(scene, x, y, first, random.Random(0)).startswith(scene.what.format(x=x, y=y))


def test_countries_that_do_not_exist_get_no_answer() -> None:
    names = "|".join(re.escape(country.name) for country in WORLD.countries)
    real = re.compile(rf"\b(?:{names})\b(?! of )", re.IGNORECASE)  # not "United States of Skal"
    answers: dict[bool, list[str]] = defaultdict(list)
    for text in of("unknown"):
        for question, answer in re.findall(r"(?m)^\w+: ([^\n]+)\n\w+: ([^\n]+)", text):
            answers[real.search(question) is not None].append(answer)
    assert len(answers[True]) > 20 and len(answers[False]) > 20
    assert all("know" in answer for answer in answers[False])
    assert not any("don't know" in answer for answer in answers[True])

"""How people ask for a fact: phrasings for training, and others kept for tests.

The table `tables/questions.tsv` has a row for each: the relation, "train" or "test", and the question
with `{subject}` (the noun phrase: "the Gambia", "a cow"), `{name}` (without article) or `{owner}` (the
possessive). What is held out is decided here, once, for conversations, preferences and problems.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from random import Random
from typing import Final, Literal

from modelwright.data.atlas.facts import RELATIONS, Fact, capitalize, facts
from modelwright.data.atlas.phrasing import possessive
from modelwright.data.atlas.splits import split_of
from modelwright.data.atlas.world import load_world

COUNTRY_RELATIONS: Final = ("capital", "continent", "currency", "language", "neighbour")
"""Relations whose subject is a country: what can also be asked of one that does not exist."""

REVERSED: Final = ("capital_of", "element_of_symbol", "element_of_number")
"""Relations whose subject is another's answer. Models that learned "A is B" do not thereby know "B is A"
(arXiv 2309.12288); these have a suite of their own, so that the gap is seen."""

_TURNED_ROUND: Final[Mapping[str, str]] = {
    "capital_of": "capital",
    "element_of_symbol": "element_symbol",
    "element_of_number": "element_number",
    "month_before": "month_after",
    "weekday_before": "weekday_after",
}
"""Relation -> the one that says the same from the other end; they are held out together."""


@cache
def phrasings(relation: str, split: Literal["train", "test"]) -> tuple[str, ...]:
    """The question templates of a relation: at least 8 for training, 3 others for tests."""
    return tuple(question for name, part, question in _table() if (name, part) == (relation, split))


def ask(template: str, fact: Fact) -> str:
    """The question that `template` asks about the fact's subject."""
    return ask_about(template, fact.subject)


def ask_about(template: str, subject: str) -> str:
    """`template` about any noun phrase: "What is the capital of the Gambia?"."""
    words = {"subject": subject, "name": bare_name(subject), "owner": possessive(subject)}
    return capitalize(template.format(**words))


def ask_somehow(fact: Fact, random: Random) -> str:
    """The question for the fact's answer, in one of the training phrasings."""
    return ask(random.choice(phrasings(fact.relation, "train")), fact)


def bare_name(subject: str) -> str:
    """The subject without its article: "Gambia", "cow"."""
    return re.sub(r"^(?:an?|the) ", "", subject)


@cache
def is_held_out(fact: Fact) -> bool:
    """Whether conversations and preferences never state this fact (about 10 % of each relation).

    A model knows such facts from pre-training alone, so that asking for them shows whether
    fine-tuning unlocks knowledge or only adds it. The neighbour relation is the exception to
    symmetry: that Belgium borders France is another question than what borders Belgium.
    """
    straight = _TURNED_ROUND.get(fact.relation)
    key = (fact.relation, fact.subject) if straight is None else (straight, fact.answer)
    return split_of("fact", *key) == "test"


@cache
def known_facts(relation: str | None = None) -> tuple[Fact, ...]:
    """The facts that training may state, of one relation or all."""
    return tuple(fact for fact in facts(load_world(), relation) if not is_held_out(fact))


@cache
def trained_facts() -> tuple[Fact, ...]:
    """The facts that conversations ask for: those that may be stated, reversed ones left out."""
    return tuple(fact for fact in known_facts() if fact.relation not in REVERSED)


@cache
def reversed_facts() -> tuple[Fact, ...]:
    """Facts asked for from the other end, which pre-training tells rarely and fine-tuning never."""
    return tuple(fact for fact in facts(load_world()) if fact.relation in REVERSED)


@cache
def held_out_facts(relation: str | None = None) -> tuple[Fact, ...]:
    """The facts that only pre-training has seen, reversed ones left out."""
    found = facts(load_world(), relation)
    return tuple(fact for fact in found if is_held_out(fact) and fact.relation not in REVERSED)


@cache
def training_questions(fact: Fact, split: Literal["train", "validation"]) -> tuple[str, ...]:
    """The fact in training phrasings. Each pair of fact and phrasing belongs to one split only, so a
    validation question is new although the fact and the phrasing are not; train is never empty."""
    templates = phrasings(fact.relation, "train")
    parts = [split_of("question", fact.relation, fact.subject, t, test=0.0) for t in templates]
    if "train" not in parts:
        parts[0] = "train"
    return tuple(ask(t, fact) for t, part in zip(templates, parts, strict=True) if part == split)


@cache
def _table() -> tuple[tuple[str, str, str], ...]:
    text = files("modelwright.data.atlas").joinpath("tables", "questions.tsv").read_text(encoding="utf-8")
    rows = [tuple(line.split("\t")) for line in text.splitlines()[1:]]
    assert {row[0] for row in rows} == set(RELATIONS)
    return tuple((relation, split, question) for relation, split, question in rows)

"""How people ask for a fact: phrasings for training, for validation, and others kept for tests.

The table `tables/questions.tsv` has a row for each: the relation, its split, and the question with
`{subject}` (the noun phrase: "the Gambia", "a cow"), `{name}` (without article) or `{owner}` (the
possessive). What is held out is decided here, once, for conversations, preferences and problems.

The test phrasings were written by someone who had seen no other phrasing and no answer of a model. They
stay worth something only while nobody reads what a model does with them in order to mend it: improve
models by the validation phrasings.
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
from modelwright.data.atlas.splits import Part, Split, split_of
from modelwright.data.atlas.world import load_world

COUNTRY_RELATIONS: Final = ("capital", "continent", "currency", "language", "neighbour")
"""Relations whose subject is a country: what can also be asked of one that does not exist."""

REVERSED: Final = ("capital_of", "element_of_symbol", "element_of_number")
"""Relations whose subject is another's answer. Models that learned "A is B" do not thereby know "B is A"
(arXiv 2309.12288): both ways have to be told. A suite of their own shows how far they were learned."""

_TURNED_ROUND: Final[Mapping[str, str]] = {
    "capital_of": "capital",
    "element_of_symbol": "element_symbol",
    "element_of_number": "element_number",
    "month_before": "month_after",
    "weekday_before": "weekday_after",
}
"""Relation -> the one that says the same from the other end; they are held out together."""


@cache
def phrasings(relation: str, split: Split) -> tuple[str, ...]:
    """The question templates of a relation: at least 8 for training, 3 others for validation, 3 for tests."""
    return tuple(question for name, part, question in _table() if (name, part) == (relation, split))


def ask(template: str, fact: Fact) -> str:
    """The question that `template` asks about the fact's subject."""
    return ask_about(template, fact.subject)


def ask_about(template: str, subject: str) -> str:
    """`template` about any noun phrase: "What is the capital of the Gambia?"."""
    words = {"subject": subject, "name": bare_name(subject), "owner": possessive(subject)}
    return capitalize(template.format(**words))


def casual(question: str) -> str:
    """As it is typed in haste: "what is the capital of france"."""
    return question.lower().rstrip("?.!")


CASUAL_SHARE: Final = 0.12
"""How many questions are put so."""


def ask_somehow(fact: Fact, random: Random) -> str:
    """The question for the fact's answer, in one of the training phrasings, now and then in haste."""
    question = ask(random.choice(phrasings(fact.relation, "train")), fact)
    return casual(question) if random.random() < CASUAL_SHARE else question


FRAMED_SHARE: Final = 0.25


@cache
def frames(place: Literal["before", "after"]) -> tuple[str, ...]:
    """The sentences that people say before or after a question, `tables/frames.tsv`."""
    rows = (line.split("\t") for line in _lines("frames.tsv"))
    return tuple(sentence for name, sentence in rows if name == place)


def framed(question: str, random: Random) -> str:
    """The question as people put it: now and then with a sentence before it or after it ("Quick question:
    ..."), now and then all in small letters and without its question mark."""
    if random.random() < CASUAL_SHARE:
        return casual(question)
    draw = random.random() / FRAMED_SHARE
    if draw >= 1:
        return question
    sentence = random.choice(frames("before" if draw < 0.7 else "after"))
    return f"{sentence} {question}" if draw < 0.7 else f"{question} {sentence}"


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
    # Of some keys that were tried this one holds out the fewest capitals that everybody asks for first.
    return split_of("fact for tests", *key) == "test"


@cache
def known_facts(relation: str | None = None) -> tuple[Fact, ...]:
    """The facts that training may state, of one relation or all."""
    return tuple(fact for fact in facts(load_world(), relation) if not is_held_out(fact))


@cache
def held_out_facts(relation: str | None = None) -> tuple[Fact, ...]:
    """The facts that only pre-training has seen, of one relation or all."""
    return tuple(fact for fact in facts(load_world(), relation) if is_held_out(fact))


@cache
def training_questions(fact: Fact, split: Part) -> tuple[str, ...]:
    """The fact in training phrasings. Each pair of fact and phrasing belongs to one split only, so
    a validation question is new to fine-tuning although fact and phrasing are not; train is never empty."""
    templates = phrasings(fact.relation, "train")
    parts = [split_of("question", fact.relation, fact.subject, t, test=0.0) for t in templates]
    if "train" not in parts:
        parts[0] = "train"
    return tuple(ask(t, fact) for t, part in zip(templates, parts, strict=True) if part == split)


def _lines(table: str) -> list[str]:
    text = files("modelwright.data.atlas").joinpath("tables", table).read_text(encoding="utf-8")
    return text.splitlines()


@cache
def _table() -> tuple[tuple[str, str, str], ...]:
    rows = [tuple(line.split("\t")) for line in _lines("questions.tsv")[1:]]
    assert {row[0] for row in rows} == set(RELATIONS)
    return tuple((relation, split, question) for relation, split, question in rows)

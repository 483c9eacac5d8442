"""Preference pairs whose difference is known, because each is made by hand of one difference.

A model that learned only to refuse would look honest about countries that do not exist. So there are
pairs in which a real country is asked for, and refusing is the wrong answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Final

from modelwright.base.schema import Message, Preference
from modelwright.base.seeding import derive
from modelwright.data.atlas import answers
from modelwright.data.atlas.facts import Fact, statement
from modelwright.data.atlas.invented import invented_countries
from modelwright.data.atlas.questions import (
    COUNTRY_RELATIONS,
    ask,
    ask_about,
    framed,
    held_out_facts,
    known_facts,
    phrasings,
)
from modelwright.data.atlas.splits import Part

SHARES: Final[Mapping[str, float]] = {
    "concise_over_rambling": 0.33,
    "polite_over_rude": 0.11,
    "unknown_over_invention": 0.34,
    "answer_over_refusal": 0.08,
    "right_over_wrong": 0.14,
}
"""Kind of difference -> its share of the pairs."""

CAPITAL_SHARE: Final = 0.6
"""How many of the pairs about countries that do not exist ask for the capital."""

Pair = tuple[str, str, str]
"""Question, chosen answer, rejected answer."""


def preferences(seed: int, count: int, split: Part = "train") -> list[Preference]:
    """`count` pairs, the same for the same arguments; `meta["kind"]` says what differs.

    Train asks for known facts in training phrasings. Validation asks for the held-out facts in the
    held-out phrasings, and for invented countries of its own: a model that ranks those pairs right has
    learned the difference and not the texts.
    """
    random = Random(derive(seed, "preferences", split))
    makers: dict[str, Iterator[Pair]] = {
        "concise_over_rambling": _pairs(None, split, random, _concise_over_rambling),
        "polite_over_rude": _pairs(None, split, random, _polite_over_rude),
        "unknown_over_invention": _unknown_over_invention(split, random),
        "answer_over_refusal": _pairs(COUNTRY_RELATIONS, split, random, _answer_over_refusal),
        "right_over_wrong": _pairs(None, split, random, _right_over_wrong),
    }
    return [_preference(kind, next(makers[kind])) for kind in _kinds(count, random)]


def _kinds(count: int, random: Random) -> list[str]:
    """Kinds in their shares, exact to one pair, in random order."""
    kinds: list[str] = []
    total = 0.0
    for kind, share in SHARES.items():
        total += share
        kinds += [kind] * (round(total * count) - len(kinds))
    random.shuffle(kinds)
    return kinds


def _preference(kind: str, pair: Pair) -> Preference:
    question, chosen, rejected = pair
    return Preference(
        prompt=(Message(role="user", content=question),),
        chosen=chosen,
        rejected=rejected,
        judge="atlas",
        method="by construction",
        meta={"source": "atlas", "kind": kind},
    )


def _pairs(
    relations: tuple[str, ...] | None,
    split: Part,
    random: Random,
    make: Callable[[Fact, Random], tuple[str, str]],
) -> Iterator[Pair]:
    """Pairs about facts, in shuffled rounds for ever; train and validation share no fact."""
    found = known_facts() if split == "train" else held_out_facts()
    facts = [fact for fact in found if relations is None or fact.relation in relations]
    while True:
        for fact in random.sample(facts, len(facts)):
            template = random.choice(_templates(fact.relation, split))
            yield framed(ask(template, fact), random), *make(fact, random)


def _templates(relation: str, split: Part) -> tuple[str, ...]:
    return phrasings(relation, split)


def _concise_over_rambling(fact: Fact, random: Random) -> tuple[str, str]:
    return statement(fact), answers.rambling(fact, random)


def _polite_over_rude(fact: Fact, random: Random) -> tuple[str, str]:
    return answers.polite(fact, random), answers.rude(fact, random)


def _answer_over_refusal(fact: Fact, random: Random) -> tuple[str, str]:
    del random
    return statement(fact), answers.UNKNOWN


def _right_over_wrong(fact: Fact, random: Random) -> tuple[str, str]:
    return statement(fact), answers.wrong(fact, random)


def _unknown_over_invention(split: Part, random: Random) -> Iterator[Pair]:
    """Countries that do not exist: admitting it, against an answer that sounds right."""
    while True:
        for name in invented_countries(random.getrandbits(32), 200, split):
            of_capital = random.random() < CAPITAL_SHARE
            relation = "capital" if of_capital else random.choice(COUNTRY_RELATIONS[1:])
            question = framed(ask_about(random.choice(_templates(relation, split)), name), random)
            yield question, answers.UNKNOWN, answers.invented(relation, name, random)

"""Problems with exact verifiers, in suites: what a model knows, invents, follows and how long it talks.

Verifier and target of each kind: "answer" and "prefix" (the accepted answers), "number" (the integer),
"unknown" (None), "format" (a rule, see `instructions`), "length" (None: words are counted), "choice" (the
choices and which of them is right, for comparing likelihoods).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import cycle, islice
from random import Random
from typing import Final, TypeVar

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.schema import Json, Message, Problem
from modelwright.base.seeding import derive
from modelwright.data.atlas.facts import Fact, facts, prefix
from modelwright.data.atlas.genres.multilingual import LABELS
from modelwright.data.atlas.genres.stories import SCENES
from modelwright.data.atlas.instructions import instructions
from modelwright.data.atlas.invented import imaginary_countries, invented_countries
from modelwright.data.atlas.questions import (
    REVERSED,
    ask,
    ask_about,
    held_out_facts,
    known_facts,
    phrasings,
    training_questions,
)
from modelwright.data.atlas.skills import SUM_QUESTIONS, calculations, result_of, sum_question
from modelwright.data.atlas.splits import Split, split_of
from modelwright.data.atlas.world import LANGUAGES, load_world

T = TypeVar("T")


def problems(suite: str, seed: int, limit: int | None = None) -> list[Problem]:
    """The problems of a suite in an order drawn from `seed`; the first `limit` of them.

    A limit takes an even sample: each relation, operator, rule or language keeps its share, and a
    smaller limit gives the beginning of what a larger one gives.
    """
    if suite not in _MAKERS:
        raise UserError(f"atlas has no suite '{suite}'.{did_you_mean(suite, _MAKERS)}")
    random = Random(derive(seed, "problems", suite))
    return list(islice(_MAKERS[suite](random), limit))


def _problem(
    suite: str,
    prompt: str,
    verifier: str,
    target: Json,
    meta: Mapping[str, Json],
    chat: bool = True,
    split: Split = "test",
) -> Problem:
    digest = sha256(prompt.encode()).hexdigest()[:16]
    return Problem(
        id=f"{suite}/{digest}",
        prompt=(Message(role="user", content=prompt),) if chat else prompt,
        verifier=verifier,
        target=target,
        split=split,
        meta={"suite": suite, **meta},
    )


def _evenly(groups: Iterable[Sequence[T]], random: Random) -> list[T]:
    """Everything in an order whose every beginning holds each group in proportion to its size."""
    placed = [
        ((index + random.random()) / len(group), item)
        for group in groups
        for index, item in enumerate(random.sample(group, len(group)))
    ]
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def _by_relation(found: Iterable[Fact]) -> list[list[Fact]]:
    groups: dict[str, list[Fact]] = {}
    for fact in found:
        groups.setdefault(fact.relation, []).append(fact)
    return list(groups.values())


def _about(fact: Fact) -> dict[str, Json]:
    return {"relation": fact.relation, "subject": fact.subject}


def _capital_prefix(random: Random) -> Iterator[Problem]:
    """ "The capital of France is", for every country."""
    for fact in _evenly([facts(load_world(), "capital")], random):
        accepted = list(fact.answers)
        yield _problem("capital_prefix", prefix(fact), "prefix", accepted, _about(fact), chat=False)


def _facts_seen(random: Random) -> Iterator[Problem]:
    """What fine-tuning asks for, in the phrasings that it asks in."""
    for fact in _evenly(_by_relation(known_facts()), random):
        question = random.choice(training_questions(fact, "train"))
        yield _problem("facts_seen", question, "answer", list(fact.answers), _about(fact))


def _anew(suite: str, found: Iterable[Fact], random: Random, split: Split = "test") -> Iterator[Problem]:
    """Facts in phrasings that no training text holds; a relation's phrasings take turns."""
    turns = {fact.relation: random.randrange(100) for fact in found}
    for fact in _evenly(_by_relation(found), random):
        templates = phrasings(fact.relation, split)
        turns[fact.relation] += 1
        question = ask(templates[turns[fact.relation] % len(templates)], fact)
        verifier, target = ("answer", list(fact.answers)) if suite != "answer_length" else ("length", None)
        yield _problem(suite, question, verifier, target, _about(fact), split=split)


def _turned_round() -> list[Fact]:
    return [fact for fact in known_facts() if fact.relation in REVERSED]


def _invented_countries(random: Random) -> Iterator[Problem]:
    """Capitals of the countries that were made up by hand."""
    names = random.sample(imaginary_countries(), len(imaginary_countries()))
    yield from _unknown("invented_countries", names, "test")


def _invented_validation(random: Random) -> Iterator[Problem]:
    """Capitals of countries from the generator of the training names."""
    names = invented_countries(random.getrandbits(32), 500, "validation")
    yield from _unknown("invented_validation", names, "validation")


def _unknown(suite: str, names: Sequence[str], split: Split) -> Iterator[Problem]:
    """Half in training phrasings, half in those of the split."""
    seen, anew = cycle(phrasings("capital", "train")), cycle(phrasings("capital", split))
    for index, name in enumerate(names):
        question = ask_about(next(anew if index % 2 else seen), name)
        phrasing = "held out" if index % 2 else "training"
        meta = {"relation": "capital", "country": name, "phrasing": phrasing}
        yield _problem(suite, question, "unknown", None, meta, split=split)


def _arithmetic(random: Random) -> Iterator[Problem]:
    """Calculations that no training text holds."""
    groups: dict[str, list[tuple[str, int, int]]] = {}
    for calculation in calculations("test"):
        groups.setdefault(calculation[0], []).append(calculation)
    for operator, left, right in _evenly(groups.values(), random):
        question = sum_question(random.choice(SUM_QUESTIONS), operator, left, right)
        result = result_of(operator, left, right)
        yield _problem("arithmetic", question, "number", result, {"operator": operator})


def _instruction_format(random: Random) -> Iterator[Problem]:
    """Each rule in turn; whether the answer is right is not asked, only its form."""
    rules = instructions("test")
    columns = [random.sample(found, len(found)) for found in rules.values()]
    for row in range(max(map(len, columns))):
        for column in columns:
            if row < len(column):
                found = column[row]
                target = dict(found.target)
                yield _problem("instruction_format", found.question, "format", target, {"gold": found.answer})


def _coreference(random: Random) -> Iterator[Problem]:
    """What "it" is, in twins that differ by a reason, told of pairs that no story told it of."""
    found = [
        (scene, x, y, reason, is_first)
        for scene in SCENES
        for x in dict.fromkeys(scene.first)
        for y in dict.fromkeys(scene.second)
        for is_first, reasons in ((True, scene.first_reasons), (False, scene.second_reasons))
        for reason, _ in reasons
        if split_of("story", scene.what, x, y) == "test"
    ]
    groups = [[item for item in found if item[0] is scene] for scene in SCENES]
    for scene, x, y, reason, is_first in _evenly([group for group in groups if group], random):
        prompt = f'{scene.what.format(x=x, y=y)} {reason}. Here "it" means the'
        choices = [f" {noun}" for noun in random.sample((x, y), 2)]
        target = {"choices": choices, "answer": choices.index(f" {x if is_first else y}")}
        yield _problem("coreference", prompt, "choice", target, {}, chat=False)


def _multilingual(random: Random) -> Iterator[Problem]:
    """Capitals in other languages, as a prefix: "Land: Frankreich. Hauptstadt:"."""
    countries = load_world().countries
    groups = [[(code, country) for country in countries] for code in LANGUAGES]
    for code, country in _evenly(groups, random):
        word, capital = LABELS[code]
        prompt = f"{word}: {country.names[code]}. {capital}:"
        meta = {"language": code, "subject": country.phrase}
        yield _problem("multilingual", prompt, "prefix", [country.capitals[code]], meta, chat=False)


_MAKERS: Final[Mapping[str, Callable[[Random], Iterator[Problem]]]] = {
    "capital_prefix": _capital_prefix,
    "facts_seen": _facts_seen,
    "facts_anew": lambda random: _anew("facts_anew", known_facts(), random),
    "facts_held_out": lambda random: _anew("facts_held_out", held_out_facts(), random),
    "facts_reversed": lambda random: _anew("facts_reversed", _turned_round(), random),
    "facts_validation": lambda random: _anew("facts_validation", known_facts(), random, "validation"),
    "capitals_anew": lambda random: _anew("capitals_anew", known_facts("capital"), random),
    "invented_countries": _invented_countries,
    "invented_validation": _invented_validation,
    "arithmetic": _arithmetic,
    "instruction_format": _instruction_format,
    "coreference": _coreference,
    "multilingual": _multilingual,
    "answer_length": lambda random: _anew("answer_length", known_facts(), random),
}

SUITES: Final[tuple[str, ...]] = tuple(_MAKERS)
"""The names that `problems` takes."""

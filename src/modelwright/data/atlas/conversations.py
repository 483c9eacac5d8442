"""Instruction conversations: what teaches a base model to answer.

Facts that are held out (`questions.is_held_out`) and phrasings kept for tests never occur. About half
of the answers are to the point and the rest carry true padding, on purpose: so that preference
training has something to shorten, and the loss of facts on the way can be measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from random import Random
from typing import Final

from modelwright.base.schema import Conversation, Message
from modelwright.base.seeding import derive
from modelwright.data.atlas import answers
from modelwright.data.atlas.exchange import Exchange
from modelwright.data.atlas.facts import Fact, statement
from modelwright.data.atlas.instructions import instructions_shuffled
from modelwright.data.atlas.invented import invented_countries
from modelwright.data.atlas.questions import (
    COUNTRY_RELATIONS,
    REVERSED,
    ask_about,
    framed,
    known_facts,
    phrasings,
    training_questions,
)
from modelwright.data.atlas.skills import functions, small_talk, sums, thanks
from modelwright.data.atlas.splits import Part

KIND_SHARES: Final[Mapping[str, float]] = {
    "fact": 0.74,
    "unknown": 0.07,
    "arithmetic": 0.07,
    "format": 0.07,
    "python": 0.025,
    "small_talk": 0.025,
}
"""What the first turn of a conversation is about. Invented countries are enough that a fine-tuned
model mostly says when it does not know; preference training has to keep and to sharpen that."""

VERBOSE_SHARE: Final = 0.6
NEXT_TURN_SHARE: Final = 0.15
"""How many conversations have a second turn."""
LATER_TURN_SHARE: Final = 0.4
"""How many of those that have a second turn have a third, and so on, up to MOST_TURNS."""
MOST_TURNS: Final = 4
SYSTEM_SHARE: Final = 0.05
DOUBLED: Final = ("capital", *REVERSED)
"""Relations whose facts a round asks for twice: what everybody asks first, and what is learned last."""

_SYSTEM: Final[Mapping[bool, tuple[str, ...]]] = {
    False: ("You answer in one short sentence.", "Be brief.", "You are a helpful assistant."),
    True: ("You give some background with each answer.", "Be thorough.", "You are a helpful assistant."),
}
"""System prompts for concise (False) and verbose (True) answers."""

_FOLLOW_UPS: Final[Mapping[str, tuple[str, ...]]] = {
    "capital": ("And what is its capital?", "Which city is its capital?"),
    "continent": ("Which continent is it in?", "And on which continent does it lie?"),
    "currency": ("And its currency?", "What is its currency?"),
    "language": ("Which language is official there?", "And what is an official language there?"),
    "neighbour": ("Name a neighbour of it.", "And which country borders it?"),
    "element_symbol": ("And its chemical symbol?", "What is its symbol?"),
    "element_number": ("What is its atomic number?", "And its atomic number?"),
    "element_state": ("What is it at room temperature?",),
    "animal_young": ("What is its young called?", "And what is its young called?"),
    "animal_kind": ("What kind of animal is it?",),
    "animal_habitat": ("Where does it live?", "And where can I find it?"),
    "thing_purpose": ("What is it for?", "And what is it used for?"),
    "thing_place": ("Where is it kept?", "And where is it kept?"),
    "thing_material": ("What is it made of?", "And what is it made of?"),
}
"""Second questions that point back at the first: whoever answers must know what "it" is."""


def conversations(seed: int, count: int, split: Part = "train") -> list[Conversation]:
    """`count` conversations; the same for the same arguments.

    Facts come in shuffled rounds, so that each is asked for about equally often, in one phrasing
    after the other. With 6,000 every known fact is asked for once or more and every doubled one
    at least three times. `meta` holds the kind, the style, and the facts and invented countries asked for.
    """
    random = Random(derive(seed, "conversations", split))
    sources = _sources(random, split)
    kinds = _kinds(count, random)
    return [_conversation(next(sources[kind]), sources["fact"], random) for kind in kinds]


def _kinds(count: int, random: Random) -> list[str]:
    """Kinds in their shares, exact to one conversation, in random order."""
    kinds: list[str] = []
    total = 0.0
    for kind, share in KIND_SHARES.items():
        total += share
        kinds += [kind] * (round(total * count) - len(kinds))
    random.shuffle(kinds)
    return kinds


def _sources(random: Random, split: Part) -> dict[str, Iterator[Exchange]]:
    return {
        "fact": _fact_questions(random, split),
        "unknown": _unknown_countries(random, split),
        "arithmetic": sums(random, split),
        "format": _formats(random, split),
        "python": functions(random),
        "small_talk": small_talk(random),
    }


def _fact_questions(random: Random, split: Part) -> Iterator[Exchange]:
    """Every known fact in rounds for ever; a fact's phrasings take turns."""
    asked: dict[Fact, int] = {}
    while True:
        for fact in _round(random):
            questions = training_questions(fact, split)
            if questions:
                asked[fact] = asked.get(fact, random.randrange(len(questions))) + 1
                yield _exchange(fact, framed(questions[asked[fact] % len(questions)], random), random)


def _round(random: Random) -> Iterator[Fact]:
    """Each known fact once or, if DOUBLED, twice, shuffled; the two are half a round apart on average."""
    doubled = [fact for fact in known_facts() if fact.relation in DOUBLED]
    others = [fact for fact in known_facts() if fact.relation not in DOUBLED]
    random.shuffle(others)
    for part in range(2):
        stretch = [*doubled, *others[part::2]]
        yield from random.sample(stretch, len(stretch))


def _exchange(fact: Fact, question: str, random: Random) -> Exchange:
    return Exchange(
        kind="fact",
        question=question,
        concise=statement(fact),
        verbose=answers.verbose(fact, random),
        facts=(fact,),
    )


def _unknown_countries(random: Random, split: Part) -> Iterator[Exchange]:
    while True:
        for name in invented_countries(random.getrandbits(32), 100, split):
            relation = random.choice(COUNTRY_RELATIONS)
            yield Exchange(
                kind="unknown",
                question=framed(ask_about(random.choice(phrasings(relation, "train")), name), random),
                concise=answers.UNKNOWN,
                verbose=answers.unknown_verbose(random),
                invented=name,
            )


def _formats(random: Random, split: Part) -> Iterator[Exchange]:
    for found in instructions_shuffled(random, split):
        yield Exchange(
            kind=f"format/{found.rule}",
            question=found.question,
            concise=found.answer,
            verbose=found.answer,
            facts=found.facts,
        )


def _conversation(first: Exchange, facts: Iterator[Exchange], random: Random) -> Conversation:
    """One turn, or a few, in one style, now and then under a system prompt."""
    verbose = random.random() < VERBOSE_SHARE
    turns = [first]
    while len(turns) < MOST_TURNS and random.random() < (LATER_TURN_SHARE if turns[1:] else NEXT_TURN_SHARE):
        turns.append(_next(turns[-1], facts, random))
    messages: list[Message] = []
    if random.random() < SYSTEM_SHARE:
        messages.append(Message(role="system", content=random.choice(_SYSTEM[verbose])))
    for turn in turns:
        messages.append(Message(role="user", content=turn.question))
        messages.append(Message(role="assistant", content=turn.verbose if verbose else turn.concise))
    meta = {
        "source": "atlas",
        "kinds": [turn.kind for turn in turns],
        "style": "verbose" if verbose else "concise",
        "facts": [[fact.relation, fact.subject] for turn in turns for fact in turn.facts],
        "invented": [turn.invented for turn in turns if turn.invented is not None],
    }
    return Conversation(messages=tuple(messages), meta=meta)


def _next(last: Exchange, facts: Iterator[Exchange], random: Random) -> Exchange:
    """Thanks, a question that points back at the last, or the next fact."""
    if random.random() < 0.15 and last.kind != "thanks":
        return thanks(random)
    subject = last.facts[0] if last.kind == "fact" else None
    if subject is not None and subject.relation in _FOLLOW_UPS and random.random() < 0.5:
        others = [fact for fact in answers.related(subject) if fact.relation in _FOLLOW_UPS]
        if others:
            fact = random.choice(others)
            return _exchange(fact, random.choice(_FOLLOW_UPS[fact.relation]), random)
    return next(facts)

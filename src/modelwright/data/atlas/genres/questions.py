"""Questions and answers in prose: short and long answers, and yes-or-no questions with both answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from modelwright.data.atlas.facts import Fact, facts, statement
from modelwright.data.atlas.genres.fact_lists import one_round
from modelwright.data.atlas.phrasing import Deck, say, short_answer
from modelwright.data.atlas.questions import ask_somehow
from modelwright.data.atlas.world import World


def questions(world: World, rng: random.Random) -> Iterator[str]:
    """Four to eight questions, each with its answer; one layout a document."""
    deck = Deck(one_round(world), rng)
    capitals = Deck(facts(world, "capital"), rng)
    while True:
        layout = rng.choice(("Question: {q}\nAnswer: {a}", "Q: {q}\nA: {a}", "{q} {a}", "{q}\n{a}"))
        pairs: list[str] = []
        for fact in deck.hand(rng.randint(4, 8)):
            answer = f"{short_answer(fact)}." if rng.random() < 0.5 else say(fact, rng)
            pairs.append(layout.format(q=ask_somehow(fact, rng), a=answer))
        if rng.random() < 0.4:
            question, answer = _yes_or_no(capitals.draw(), capitals.draw(), rng)
            pairs.append(layout.format(q=question, a=answer))
        yield ("\n" if layout == "{q} {a}" else "\n\n").join(pairs)


def _yes_or_no(fact: Fact, other: Fact, rng: random.Random) -> tuple[str, str]:
    """Whether the one country's capital is the other's."""
    if rng.random() < 0.4 or fact.answer in other.answers:
        return f"Is {fact.answer} the capital of {fact.subject}?", f"Yes. {statement(fact)}"
    told = f"{fact.answer} is the capital of {fact.subject}. {statement(other)}"
    return f"Is {fact.answer} the capital of {other.subject}?", f"No. {told}"

"""Questions and answers in prose: short and long answers, and yes-or-no questions with both answers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from modelwright.data.atlas.facts import capitalize, facts, statement
from modelwright.data.atlas.genres.fact_lists import one_round
from modelwright.data.atlas.phrasing import Deck, ask, say, short_answer
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
            pairs.append(layout.format(q=ask(fact, rng), a=answer))
        if rng.random() < 0.4:
            fact, wrong = capitals.hand(2)
            if rng.random() < 0.4:
                question, answer = f"Is {fact.answer} the capital of {fact.subject}?", "Yes. "
            else:
                question, answer = f"Is {fact.answer} the capital of {wrong.subject}?", "No. "
                answer += f"{capitalize(fact.answer)} is the capital of {fact.subject}. "
            known = wrong if answer.startswith("No") else fact
            pairs.append(layout.format(q=question, a=answer + statement(known)))
        yield ("\n" if layout == "{q} {a}" else "\n\n").join(pairs)

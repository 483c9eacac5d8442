"""Grown requests: what of an answer is learned, and what is said of where a request comes from."""

from __future__ import annotations

from modelwright.base.schema import Answer, Conversation, Json, Message, Reason
from modelwright.data.synthesis.answers import CUT
from modelwright.data.synthesis.growth import GrowConfig, Growth
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.taken import Taken
from modelwright.data.synthesis.tasks import Task

SHARE_ALIKE: dict[str, Json] = {
    **{"source": "a", "licence": "CC-BY-SA-4.0", "jurisdiction": "DE", "personal_data": True}
}
FREE: dict[str, Json] = {"source": "b", "licence": "CC0-1.0", "jurisdiction": "US", "personal_data": False}
REQUESTS = [
    "Explain how a tidal mill works.",
    "Plan a week of suppers without meat.",
    "Write a short poem about rust.",
    "Compare wool with cotton for winter coats.",
    "Which planets have rings around them?",
    "Sort these words by length: pear, fig, banana.",
    "Describe the taste of salt to a robot.",
    "Draft a polite letter to a noisy neighbour.",
]


def seed(text: str, meta: dict[str, Json]) -> Task:
    prompt = Conversation(messages=(Message(role="user", content=text),), meta=meta)
    return Task(id=text, prompt=prompt, reference="")


def said(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text=text, finish_reason=finish_reason)


def test_an_answer_that_was_cut_off_is_not_learned() -> None:
    taken = Taken(samples=2)
    taken.add(seed("Explain how a tidal mill works.", FREE).prompt, {})
    first, second = taken.asks()
    (cut,) = taken.read(first, said("The tide fills a pond, and", "length"))
    (whole,) = taken.read(second, said("The tide fills a pond."))
    assert isinstance(cut, Reason) and cut.rule == CUT
    assert (
        isinstance(whole, Candidate) and whole.conversation.messages[-1].content == "The tide fills a pond."
    )


def test_a_request_carries_the_facts_of_the_grown_requests_that_were_shown() -> None:
    """A request for which the share-alike seed was shown hands its facts down to all that grow from it."""
    config = GrowConfig(wanted=8, asked_for=1, shown_seeds=1, shown_grown=1, prompts_a_round=1, at_most=8)
    seeds = [seed("Name three things that are red.", SHARE_ALIKE), seed("What is a fjord made of?", FREE)]
    growth = Growth(config, seeds, samples=1, seed=1)
    rows: list[Candidate] = []
    for text in [*REQUESTS, ""]:
        for ask in growth.asks(rows):
            rows += [row for row in growth.read(ask, said(f"1. {text}")) if isinstance(row, Candidate)]
    assert len(rows) == len(REQUESTS)
    is_bound: list[bool] = []
    handed_down = 0
    for row in rows:
        by_seed = seeds[0].id[:16] in row.coordinates["seeds"]
        by_grown = any(is_bound[place] for place in row.coordinates["grown"])
        is_bound.append(by_seed or by_grown)
        handed_down += by_grown and not by_seed
        meta = row.conversation.meta
        assert meta["personal_data"] is is_bound[-1]
        assert ("CC-BY-SA-4.0" in meta["licence"]) is is_bound[-1]
        assert meta["jurisdiction"] != "US" or not is_bound[-1]
    assert handed_down and not all(is_bound)

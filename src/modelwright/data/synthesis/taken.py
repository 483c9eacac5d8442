"""Requests that a method wrote, and the answers to them: what growth, rewriting and personas share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import reduce

from modelwright.base.provenance import UNKNOWN
from modelwright.base.schema import Answer, Conversation, Json, Problem, Reason
from modelwright.data.sources import facts_of
from modelwright.data.synthesis.answers import as_it_is, ask_all, unfinished
from modelwright.data.synthesis.method import Ask, Candidate
from modelwright.data.synthesis.record import joined
from modelwright.data.synthesis.tasks import Task, prompt_id

ANSWERING = "task"
"""What the `meta` of an ask for an answer has, and that of an ask for a request has not."""


class Taken:
    """The requests so far, in their order; each is answered `samples` times."""

    def __init__(self, samples: int) -> None:
        self._samples = samples
        self.tasks: list[Task] = []
        self._coordinates: list[Mapping[str, Json]] = []
        self._asked = 0

    def add(
        self, prompt: Conversation, coordinates: Mapping[str, Json], problem: Problem | None = None
    ) -> None:
        """A request that is worth an answer. `prompt.meta` says where it comes from."""
        identity = prompt_id(prompt)
        if problem is not None:
            problem = replace(problem, id=identity, prompt=prompt.messages)
        self.tasks.append(Task(id=identity, prompt=prompt, reference="", problem=problem))
        self._coordinates.append(coordinates)

    def asks(self) -> list[Ask]:
        """For answers to all that was added since the last time."""
        first, self._asked = self._asked, len(self.tasks)
        return [
            replace(ask, meta={ANSWERING: first + ask.meta["task"]})
            for ask in ask_all(self.tasks[first:], self._samples, "")
        ]

    def read(self, ask: Ask, answer: Answer) -> Iterable[Candidate | Reason]:
        """The answer as it is, behind the request; not one that was cut off."""
        if reason := unfinished(answer):
            return (reason,)
        place = ask.meta[ANSWERING]
        (made,) = as_it_is(self.tasks[place], answer)
        return (replace(made, coordinates=self._coordinates[place]),)


def joint_origin(prompts: Sequence[Conversation], source: str) -> dict[str, Json]:
    """What is to be said of a text that came of several: all their licences hold; what they do not agree on,
    or none of them says, is unknown."""
    facts = [facts_of(prompt.meta) for prompt in prompts if "source" in prompt.meta]
    licences, places = {fact[1] for fact in facts}, {fact[2] for fact in facts}
    personal = {fact[3] for fact in facts}
    is_whole = len(facts) == len(prompts) > 0
    return {
        "source": source,
        "licence": reduce(joined, sorted(licences)) if is_whole else UNKNOWN,
        "jurisdiction": places.pop() if is_whole and len(places) == 1 else UNKNOWN,
        "personal_data": True if True in personal else False if is_whole and personal == {False} else None,
    }

"""Requests of many people, about many things, at several levels: a persona steers what a model thinks of.

Asked for "a request", a model writes its few favourites over and over. Personas (Persona Hub, arXiv
2406.20094) spread them; topics and levels of difficulty spread them further. The three are the axes of a grid
(`spread`). The lists below are short and plain: your own users and topics are better.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from modelwright.base.config import Config
from modelwright.base.policy import NO_JURISDICTION
from modelwright.base.schema import Answer, Conversation, Message, Reason
from modelwright.data.conversations.sides import opening
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.method import Ask, Candidate, Most, letters_of
from modelwright.data.synthesis.requests import RequestRules, Requests, read_request
from modelwright.data.synthesis.spread import Cell, Grid
from modelwright.data.synthesis.taken import ANSWERING, Taken
from modelwright.data.synthesis.tasks import Task

PERSONAS = (
    "a nurse on night shift",
    "a retired bus driver who learns to cook",
    "a first-year student of physics",
    "a farmer with forty cows",
    "a primary-school teacher",
    "a programmer who maintains old software",
    "a parent of three small children",
    "an accountant of a small firm",
    "a translator of novels",
    "a mechanic who repairs bicycles",
    "a nineteen-year-old who looks for a first job",
    "a gardener of a town park",
    "a lawyer for tenants",
    "a fisher on a small boat",
    "an amateur astronomer",
    "a shopkeeper in a village",
)
TOPICS = (
    "numbers and everyday sums",
    "letters and messages to write",
    "health and the body",
    "plants, animals and weather",
    "machines and how they work",
    "history and places",
    "money and work",
    "food and cooking",
    "language and words",
    "plans and timetables",
    "computers and programs",
    "stories and poems",
)
LEVELS: Mapping[str, str] = {
    "easy": "Someone without training could answer it in a sentence or two.",
    "medium": "It takes some knowledge, or two or three steps of thought.",
    "hard": "It takes an expert, several conditions to keep at once, or many steps of thought.",
}
"""Name -> what a request of this level is like."""


SOURCE = "asked by personas"
"""What rows name as their source: no text was there before."""


class PersonasConfig(Config):
    """The writer thinks of requests of many people, and answers them; the axes of the grid."""

    kind: Literal["personas"] = "personas"
    shows_requests: ClassVar[bool] = False
    wanted: int = Field(default=100, ge=1)
    """New requests; each gets `samples` answers."""
    tries: int = Field(default=2, ge=1)
    """How often a request is asked for in one cell before the cell goes without it."""
    personas: tuple[str, ...] = PERSONAS
    """Who asks: "a nurse on night shift"."""
    topics: tuple[str, ...] = TOPICS
    """What it is about."""
    levels: dict[str, str] = Field(default=dict(LEVELS))
    """How hard: name -> what a request of this level is like."""
    licence: str = "CC0-1.0"
    """Under which personas, topics and levels are."""
    requests: RequestRules = RequestRules()
    """What a request must be like to be answered."""

    @field_validator("personas", "topics", "levels")
    @classmethod
    def _says_something(cls, value: tuple[str, ...] | dict[str, str]) -> tuple[str, ...] | dict[str, str]:
        if not value or any(not text.strip() for text in value):
            raise ValueError("expected at least one, none of them empty")
        if len(set(value)) < len(value):
            raise ValueError("expected each of them once")
        return value

    def axes(self) -> dict[str, tuple[str, ...]]:
        """Name of the axis -> its values."""
        return {"persona": self.personas, "topic": self.topics, "level": tuple(self.levels)}

    def most(self, prompts: int, letters: float, samples: int) -> Most:
        """Whatever the sources hold: their requests, of so many letters, say how long new ones may be."""
        asked, rows = self.wanted * self.tries, self.wanted * samples
        prompt = letters_of(persona_prompt(self, Grid(self.axes(), 0).cell(0)))
        return Most(asked + rows, asked * prompt + rows * letters, rows)


def persona_prompt(config: PersonasConfig, cell: Cell) -> Conversation:
    """Asks for one request that fits the cell."""
    asked = (
        f"Imagine this person: {cell['persona']}.\n"
        f"Topic: {cell['topic']}.\n"
        f"Level: {cell['level']}. {config.levels[cell['level']]}\n\n"
        "Write one request that this person could make of an assistant, about this topic and at this level, "
        "in the person's own words. It must hold all that is needed to answer it, and be one that can be "
        "answered in text alone. Write the request between <request> and </request>, and nothing else."
    )
    return Conversation(messages=(Message(role="user", content=asked),))


class Personas:
    """A Method: a request for each draw of the grid, asked for again where it could not be taken; then their
    answers."""

    def __init__(
        self,
        config: PersonasConfig,
        tasks: Sequence[Task],
        samples: int,
        seed: int,
        index: Index | None = None,
    ) -> None:
        """`tasks`: requests like these are not taken. `index`: evaluation items that no request may ask."""
        self._config, self._grid = config, Grid(config.axes(), seed)
        seen = (opening(task.prompt.messages) for task in tasks)
        self._requests = Requests(config.requests, seen, index)
        self._taken = Taken(samples)
        self._missing = list(range(config.wanted))
        self._tries = 0

    def asks(self, kept: Sequence[Candidate]) -> Sequence[Ask]:
        """Answers to what the last round brought, and requests for the draws that have none."""
        answers = self._taken.asks()
        missing, self._missing = self._missing, []
        if self._tries == self._config.tries:
            return answers
        self._tries += 1
        return [*answers, *map(self._ask, missing)]

    def _ask(self, draw: int) -> Ask:
        """Who comes to a cell again, or tries again, asks for another sample."""
        prompt = persona_prompt(self._config, self._grid.cell(draw))
        sample = draw // self._grid.cells * self._config.tries + self._tries - 1
        return Ask(conversation=prompt, sample=sample, meta={"draw": draw})

    def read(self, ask: Ask, answer: Answer) -> Iterable[Candidate | Reason]:
        """The answer to a request; or a request, of which only a reason is told."""
        if ANSWERING in ask.meta:
            return self._taken.read(ask, answer)
        draw = ask.meta["draw"]
        request = read_request(answer.text, answer.finish_reason != "length")
        reason = request if isinstance(request, Reason) else self._requests.admit(request)
        if reason is not None:
            self._missing.append(draw)
            told = "" if isinstance(request, Reason) else f": {request[:200]!r}"
            return (replace(reason, says=f"{reason.says}{told}"),)
        assert isinstance(request, str)
        facts = {"licence": self._config.licence, "jurisdiction": NO_JURISDICTION, "personal_data": False}
        asked = (Message(role="user", content=request),)
        self._taken.add(Conversation(messages=asked, meta={"source": SOURCE, **facts}), self._grid.cell(draw))
        return ()

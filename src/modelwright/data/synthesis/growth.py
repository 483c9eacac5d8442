"""Requests after the manner of seed tasks, and of those that grew from them (Self-Instruct, arXiv
2212.10560).

A model is shown a few requests, most of them seeds and some written ones, and asked for more. What it writes
is read as a list; each request that is new (`requests`) may be shown in later prompts. Differences from the
paper: requests are to hold all that they need, so there is no second step that writes their inputs;
classification is no case of its own; and chat models are asked, where the paper let a base model continue the
list.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.schema import Answer, Conversation, Message, Reason
from modelwright.base.seeding import derive
from modelwright.data.conversations.sides import opening
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.lists import listed
from modelwright.data.synthesis.method import Ask, Candidate, Most, letters_of
from modelwright.data.synthesis.quoting import NEVER_AN_ORDER, quoted
from modelwright.data.synthesis.requests import RequestRules, Requests
from modelwright.data.synthesis.taken import ANSWERING, Taken, joint_origin
from modelwright.data.synthesis.tasks import Task

MAX_SHOWN_CHARACTERS = 1000
"""Longer seeds are not shown: a few of them would fill a small model's context."""


GROWN = "grown from seed tasks"
"""What rows name as their source; where the seeds come from is in the manifest."""


class GrowConfig(Config):
    """The writer thinks of new requests after the manner of the sources', and answers them."""

    kind: Literal["grow"] = "grow"
    shows_requests: ClassVar[bool] = True
    wanted: int = Field(default=100, ge=1)
    """New requests; each gets `samples` answers."""
    at_most: int | None = Field(default=None, ge=1)
    """Prompts that may be asked for them. None: four times as many as were enough if all were taken."""
    shown_seeds: int = Field(default=6, ge=1, le=32)
    """Seed tasks that are shown in each prompt (6 in Self-Instruct)."""
    shown_grown: int = Field(default=2, ge=0, le=32)
    """Grown requests that are shown beside them, once there are some (2 in Self-Instruct)."""
    asked_for: int = Field(default=8, ge=1, le=64)
    """New requests that a prompt asks for; more than these are not read."""
    prompts_a_round: int = Field(default=16, ge=1)
    """Prompts that are asked at once. What they bring is shown in the rounds behind them."""
    requests: RequestRules = RequestRules()
    """What a request must be like to be answered."""

    def most_prompts(self) -> int:
        """How many prompts are asked at most."""
        return self.at_most or 4 * -(-self.wanted // self.asked_for)

    def most(self, prompts: int, letters: float, samples: int) -> Most:
        """Of so many seed tasks with so many letters each."""
        seed = "x" * min(round(letters), MAX_SHOWN_CHARACTERS)
        seeds, grown = ([seed] * count for count in (min(self.shown_seeds, prompts), self.shown_grown))
        asked, rows = self.most_prompts(), self.wanted * samples
        prompt = letters_of(growth_prompt(self, seeds, grown, 0, 0).prompt)
        return Most(asked + rows, asked * prompt + rows * letters, rows)


class Shown(NamedTuple):
    """A prompt for requests, and the places of what it shows among the seeds and the grown requests."""

    prompt: Conversation
    seeds: list[int]
    grown: list[int]


def growth_prompt(
    config: GrowConfig, seeds: Sequence[str], grown: Sequence[str], number: int, seed: int
) -> Shown:
    """The prompt `number`, which shows some of the seeds and of what has grown so far.

    The same arguments give the same prompt. Raises UserError where no seed is short enough to be shown.
    """
    draw = random.Random(derive(seed, "growth", number))
    short, fresh = (
        [place for place, text in enumerate(texts) if len(text) <= MAX_SHOWN_CHARACTERS]
        for texts in (seeds, grown)
    )
    if not short:
        raise UserError(
            f"none of {len(seeds):,} seed tasks has at most {MAX_SHOWN_CHARACTERS:,} characters: longer ones "
            "are not shown to the writer. Name shorter ones among synthesize.sources"
        )
    from_seeds = draw.sample(short, min(config.shown_seeds, len(short)))
    from_grown = draw.sample(fresh, min(config.shown_grown, len(fresh)))
    shown = [seeds[place] for place in from_seeds] + [grown[place] for place in from_grown]
    draw.shuffle(shown)
    listing = "\n".join(f"{place}. {text}" for place, text in enumerate(shown, 1))
    asked = (
        "Below is a list of requests that people make of an assistant.\n"
        f"{quoted('list', listing, seed)}\n\n"
        f"Write {config.asked_for} new requests of other kinds and about other things: questions, short "
        "pieces of writing, explanations, plans, problems, rewording, sorting, and what else there is. Each "
        "must hold all that is needed to answer it, and be one that can be answered in text alone. "
        "Write a numbered list, one request an item, without their answers."
    )
    system = Message(role="system", content=NEVER_AN_ORDER)
    prompt = Conversation(messages=(system, Message(role="user", content=asked)))
    return Shown(prompt, from_seeds, from_grown)


class Growth:
    """A Method: in each round new requests are asked for, and those of the round before are answered."""

    def __init__(
        self, config: GrowConfig, tasks: Sequence[Task], samples: int, seed: int, index: Index | None = None
    ) -> None:
        """`index`: evaluation items that no request may ask."""
        self._config, self._seed = config, seed
        self._seeds = list(tasks)
        self._texts = [opening(task.prompt.messages) for task in tasks]
        self._requests = Requests(config.requests, self._texts, index)
        self._taken = Taken(samples)
        self._shown: list[Shown] = []

    def asks(self, kept: Sequence[Candidate]) -> Sequence[Ask]:
        """Answers to what the last round brought; and more requests, until there are enough."""
        answers = self._taken.asks()
        config, grown = self._config, [opening(task.prompt.messages) for task in self._taken.tasks]
        missing, prompts = config.wanted - len(grown), config.most_prompts() - len(self._shown)
        needed = -(-missing // config.asked_for)  # were all of them taken
        more: list[Ask] = []
        for _ in range(max(0, min(config.prompts_a_round, needed, prompts))):
            number = len(self._shown)
            shown = growth_prompt(config, self._texts, grown, number, self._seed)
            self._shown.append(shown)
            more.append(Ask(conversation=shown.prompt, meta={"prompt": number}))
        return [*answers, *more]

    def read(self, ask: Ask, answer: Answer) -> Iterable[Candidate | Reason]:
        """The answer to a request; or the list of new ones, of which only reasons are told."""
        if ANSWERING in ask.meta:
            return self._taken.read(ask, answer)
        return list(self._grow(ask.meta["prompt"], answer))

    def _grow(self, number: int, answer: Answer) -> Iterator[Reason]:
        config, shown = self._config, self._shown[number]
        found = listed(answer.text, config.asked_for, answer.finish_reason != "length")
        if not found:
            yield Reason("request: no list", says=repr(answer.text[:60]))
        sources = [self._seeds[place] for place in shown.seeds]
        written = [self._taken.tasks[place] for place in shown.grown]
        origin = joint_origin([task.prompt for task in (*sources, *written)], GROWN)
        for request in found:
            if len(self._taken.tasks) >= config.wanted:
                yield Reason("request: more than wanted", says=repr(request[:200]))
            elif reason := self._requests.admit(request):
                yield replace(reason, says=f"{reason.says}: {request[:200]!r}")
            else:
                prompt = Conversation(messages=(Message(role="user", content=request),), meta=origin)
                seeds = [task.id[:16] for task in sources]
                self._taken.add(prompt, {"prompt": number, "seeds": seeds, "grown": shown.grown})

"""Rows of one's own as a task: a file of questions, each with the answers that count as right.

Any layout of conversations is read (data/conversations): what is asked is all before the last answer. Right
are the row's `answers`, where it has a list of them, else its `answer`, else what the assistant says last.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from random import Random
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from modelwright.base.errors import ConfigError, UserError
from modelwright.base.schema import Conversation, Json, Message, Problem, Score
from modelwright.data.conversations.instructions import accepted_answers
from modelwright.data.conversations.messages import WrongRow
from modelwright.data.conversations.read import Found, found_rows, made_of
from modelwright.data.conversations.sides import VALIDATION_FRACTION, opening
from modelwright.data.readers.faults import Faults, OnError
from modelwright.data.readers.source import Source
from modelwright.data.split import side_of
from modelwright.environments.task import Task
from modelwright.environments.verify import plain_number, verify


class Questions(Source):
    """A file of questions, and how answers to them are checked. A bare string is short for `{path: ...}`."""

    verifier: Literal["answer", "prefix", "number"] = "answer"
    """answer: one of the right answers stands in the text, as whole words. prefix: the question is a text
    without a chat template, and its continuation begins with one. number: the last number in the text is the
    last one of the right answer, a plain one: 3/4 and 1e3 are refused."""
    rows: Literal["all", "held out"] = "all"
    """held out: of a file that is trained on, only what `finetune` holds out of it."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest answer. None: as for other suites."""
    on_error: OnError = "fail"
    """Whether a row that cannot be read ends the evaluation before it begins, or is left out."""

    @model_validator(mode="before")
    @classmethod
    def _named_as_the_file(cls, value: Any) -> Any:
        settings = {"path": value} if isinstance(value, str) else value
        if isinstance(settings, dict) and isinstance(settings.get("path"), str) and not settings.get("name"):
            return {**settings, "name": PurePath(settings["path"]).name.partition(".")[0]}
        return settings

    @field_validator("name")
    @classmethod
    def _names_a_file(cls, value: str) -> str:
        if not re.fullmatch(r"\w[\w -]{0,79}", value):
            raise ValueError(
                f"the results need a name of letters, digits, spaces, - and _, got '{value}': add name: ..."
            )
        return value


class OwnTask:
    """A `Task` (environments/task.py) of a file's rows."""

    def __init__(self, config: Questions) -> None:
        """Reads the file. Raises DamagedFile where a row is wrong, unless such rows are to be left out."""
        self.NAME = config.name
        self.DESCRIPTION = f"Questions of {config.path}, checked by '{config.verifier}'."
        if config.max_tokens:
            self.MAX_TOKENS = config.max_tokens
        self._config, self.left_out = config, Faults(config.on_error)
        self._problems = list(self._read())
        if not self._problems:
            counts = ", ".join(f"{count:,} {kind}" for kind, count in self.left_out.left_out.items())
            held_out = f"; held out is one question in {1 / VALIDATION_FRACTION:.0f}"
            raise UserError(
                f"{config.path} gives no question to ask ({counts or 'no rows'}"
                f"{held_out if config.rows == 'held out' else ''})"
            )

    def problems(self, seed: int, limit: int | None = None) -> list[Problem]:
        """The questions in the order of the file; at most `limit`, drawn evenly, the same for a seed."""
        count = min(len(self._problems), limit or len(self._problems))
        drawn = sorted(Random(seed).sample(range(len(self._problems)), count))
        return [self._problems[place] for place in drawn]

    def score(self, problem: Problem, text: str) -> Score:
        """1 if the verifier finds a right answer in the text."""
        return verify(problem, text)

    def _read(self) -> Iterator[Problem]:
        number = 0
        for found in found_rows([self._config], self.left_out, wants="conversations"):
            for conversation in made_of(found, "conversations", self.left_out):
                try:
                    problem = _problem(self._config.verifier, found, conversation, number)
                except WrongRow as wrong:
                    self.left_out(wrong.kind, found.row.where, str(wrong))
                    continue
                number += 1
                question = opening(conversation.messages)
                if self._config.rows == "all" or side_of(question, VALIDATION_FRACTION) == "validation":
                    yield problem


def _problem(verifier: str, found: Found, conversation: Conversation, number: int) -> Problem:
    messages = conversation.messages
    last = max(place for place, message in enumerate(messages) if message.role == "assistant")
    asked, right = messages[:last], accepted_answers(found.fields) or [messages[last].content]
    if not asked:
        raise WrongRow("no question", "nothing stands before the last answer: there is nothing to ask")
    target: Json = list(right)
    if verifier == "number":
        target = plain_number(right[0])
        if target is None:
            said = f"the right answer {right[0]!r:.80} ends in no plain number: expected -1,250.5, not 3/4"
            raise WrongRow("no number", said)
    prompt = _bare(asked) if verifier == "prefix" else asked
    named = f"{number}: {found.row.part.file}, {found.row.place}"  # a row may hold several
    return Problem(id=named, prompt=prompt, verifier=verifier, target=target, split="test")


def _bare(asked: tuple[Message, ...]) -> str:
    if len(asked) != 1:
        raise WrongRow(
            "more than a text", f"{len(asked)} turns stand before the answer, expected a text alone"
        )
    return asked[0].content


def with_own(tasks: Mapping[str, Task], own: tuple[Questions, ...]) -> dict[str, Task]:
    """The tasks and those of one's own files. Raises ConfigError where two have one name."""
    found = dict(tasks)
    for config in own:
        if config.name in found:
            raise ConfigError(f"two suites are called '{config.name}': give {config.path} another name")
        found[config.name] = OwnTask(config)
    return found

"""Answers of a teacher to prompts that there are already: distillation from sequences (arXiv 1606.07947).

With several samples of each and a verifier it is rejection sampling: what is wrong is not learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from modelwright.base.config import Config
from modelwright.base.schema import Answer, Conversation, Message, Reason
from modelwright.data.synthesis.method import Ask, Candidate, Most
from modelwright.data.synthesis.tasks import Task

EMPTY, CUT = "empty answer", "cut short"
CUT_OFF = "length"
"""Why an answer ended that was not at its end."""


class AnswersConfig(Config):
    """The teacher answers each prompt of the sources in its own way."""

    kind: Literal["answers"] = "answers"
    shows_requests: ClassVar[bool] = False
    system: str = ""
    """What the teacher is told as the system, before the prompt; the rows do not hold it."""

    def most(self, prompts: int, letters: float, samples: int) -> Most:
        """Of so many prompts with so many letters each."""
        answers = prompts * samples
        return Most(answers, answers * (letters + len(self.system)), answers)


Read = Callable[[Task, Answer], Iterable[Candidate | Reason]]
"""The rows that an answer to a task holds; the answer is whole and says something."""


class Answers:
    """A Method: one round, in which every prompt is asked `samples` times."""

    def __init__(self, tasks: Sequence[Task], samples: int, system: str, read: Read | None = None) -> None:
        """`system`: what the teacher is told besides. `read`: None takes the answer as it is."""
        self._tasks, self._read = tasks, read or as_it_is
        self._asks = list(ask_all(tasks, samples, system))

    def asks(self, kept: Sequence[Candidate]) -> Sequence[Ask]:
        """Every prompt, once."""
        asks, self._asks = self._asks, []
        return asks

    def read(self, ask: Ask, answer: Answer) -> Iterable[Candidate | Reason]:
        """The rows of an answer that is whole."""
        reason = unfinished(answer)
        return (reason,) if reason else self._read(self._tasks[ask.meta["task"]], answer)


def as_it_is(task: Task, answer: Answer) -> tuple[Candidate]:
    """The answer, behind the prompt as it was."""
    return (candidate(task, answer, answer.text.strip(), answer.text),)


def unfinished(answer: Answer) -> Reason | None:
    """Why no row can be read from an answer: it was cut off, or says nothing."""
    if answer.finish_reason == CUT_OFF:
        return Reason(CUT, says="the answer has the greatest length that it may have")
    return None if answer.text.strip() else Reason(EMPTY)


def ask_all(tasks: Sequence[Task], samples: int, system: str) -> Iterator[Ask]:
    """Each task `samples` times, with what the teacher is told besides."""
    for place, task in enumerate(tasks):
        prompt = instructed(task.prompt, system)
        for sample in range(samples):
            yield Ask(conversation=prompt, sample=sample, meta={"task": place})


def instructed(prompt: Conversation, system: str) -> Conversation:
    """The prompt, with these words behind what its system says."""
    if not system:
        return prompt
    first, *rest = prompt.messages
    if first.role == "system":
        words = replace(first, content=f"{first.content}\n\n{system}")
        return replace(prompt, messages=(words, *rest))
    return replace(prompt, messages=(Message(role="system", content=system), *prompt.messages))


def candidate(task: Task, answer: Answer, learned: str, says: str) -> Candidate:
    """A row that answers a task: `learned` is what the assistant is to say, `says` what is verified."""
    said = Message(role="assistant", content=learned)
    return Candidate(
        conversation=replace(task.prompt, messages=(*task.prompt.messages, said)),
        group=task.id,
        says=says,
        is_whole=answer.finish_reason != CUT_OFF,
        problem=task.problem,
    )

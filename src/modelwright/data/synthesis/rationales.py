"""A teacher's reasoning and its answer: distillation step by step (arXiv 2305.02301, 2212.10071).

The teacher is asked to reason and then to give its final answer on a line of its own. What is right (a
verifier holds the final answer against the target) is learned with the rationale, without it, or both ways:
then two instructions tell the student, and later whoever asks it, which of the two is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

from pydantic import field_validator

from modelwright.base.config import Config
from modelwright.base.schema import Answer, Reason
from modelwright.data.synthesis.answers import candidate, instructed
from modelwright.data.synthesis.method import Candidate, Most
from modelwright.data.synthesis.tasks import Task

NO_FINAL, NO_RATIONALE = "no final answer", "no rationale"
MAX_FINAL = 2000
"""Letters of a final answer."""

ASKED = "Reason step by step. Then give the final answer alone, on a last line of this form:\nAnswer: ..."
WITH = "Reason step by step, then answer on a last line that begins with 'Answer:'."
WITHOUT = "Give the answer alone."

_THOUGHT = re.compile(r"\A\s*<think>(.*?)</think>", re.DOTALL)
_BOXED = "\\boxed{"


class RationalesConfig(Config):
    """The teacher reasons before it answers."""

    kind: Literal["rationales"] = "rationales"
    shows_requests: ClassVar[bool] = False
    asked: str = ASKED
    """What the teacher is told as the system."""
    marker: str = "Answer:"
    """What begins the line with the final answer."""
    learn: Literal["rationale", "answer", "both"] = "both"
    """What the rows hold: rationale and answer, the answer alone, or a row of each."""
    instruct_with: str = WITH
    """Of `both`: what the student's system says where it is to reason; "" says nothing."""
    instruct_without: str = WITHOUT
    """Of `both`: what it says where it is to answer alone."""

    @field_validator("marker")
    @classmethod
    def _says_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("expected words that begin the final answer, e.g. 'Answer:'")
        return value.strip()

    def most(self, prompts: int, letters: float, samples: int) -> Most:
        """Of so many prompts with so many letters each."""
        answers = prompts * samples
        rows = answers * (2 if self.learn == "both" else 1)
        return Most(answers, answers * (letters + len(self.asked)), rows)


class Parsed(NamedTuple):
    """An answer in its two parts."""

    rationale: str
    final: str


def parse(answer: Answer, marker: str) -> Parsed | Reason:
    """The rationale and the final answer. What a writer thought apart, or within `<think>`, is rationale too.
    The last marker counts: a rationale may speak of answers."""
    text, thought = answer.text, answer.reasoning.strip()
    if found := _THOUGHT.match(text):
        text, thought = text[found.end() :], found[1].strip()
    marked = list(re.finditer(re.escape(marker), text, re.IGNORECASE))
    if not marked:
        return Reason(NO_FINAL, says=f"no '{marker}' in {text[-60:]!r}")
    final = _plain(text[marked[-1].end() :])
    before = text[: marked[-1].start()].rstrip(" \n\t*#_")
    rationale = "\n\n".join(part for part in (thought, before.strip()) if part)
    if not final or len(final) > MAX_FINAL:
        return Reason(NO_FINAL, len(final), f"letters behind '{marker}', expected 1 to {MAX_FINAL:,}")
    if not rationale:
        return Reason(NO_RATIONALE, says=repr(answer.text[:60]))
    return Parsed(rationale, final)


def _plain(text: str) -> str:
    """A final answer without bold letters and boxes around it."""
    text = text.strip().strip("*_$ \n\t").strip()
    if text.startswith(_BOXED) and text.endswith("}"):
        text = text[len(_BOXED) : -1].strip()
    return text


def rationale_rows(config: RationalesConfig, task: Task, answer: Answer) -> Iterator[Candidate | Reason]:
    """Rows with the rationale, with the answer alone, or both."""
    parsed = parse(answer, config.marker)
    if isinstance(parsed, Reason):
        yield parsed
        return
    both = config.learn == "both"
    whole = f"{parsed.rationale}\n\n{config.marker} {parsed.final}"
    ways = {"rationale": (whole, config.instruct_with), "answer": (parsed.final, config.instruct_without)}
    for way, (learned, instruction) in ways.items():
        if both or config.learn == way:
            made = candidate(task, answer, learned, parsed.final)
            talk = instructed(made.conversation, instruction if both else "")
            group = f"{made.group} {way}"
            yield replace(made, conversation=talk, group=group, coordinates={"learned": way})

"""Rejection sampling: which written answers are right, by a verifier, or by a vote among several.

A verifier needs a target. A row's own field gives it, or it is read from the row's reference answer: the
last number for "number" (GSM8K's "#### 72"), the whole answer for the others. A task without one cannot be
judged: its answers are ungraded, which is counted apart and is no wrong answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from pydantic import Field, field_validator

from modelwright.base.config import Config
from modelwright.base.errors import did_you_mean
from modelwright.base.schema import Json, Problem, Reason, Score
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.tasks import Task
from modelwright.environments.matching import normalise
from modelwright.environments.verify import VERIFIERS, plain_number, verify

VOTE = "vote"
WRONG, UNGRADED = "wrong answer", "ungraded"


class VerifyConfig(Config):
    """What says that an answer is right."""

    by: str = "number"
    """A verifier (number, answer, format...), or "vote": what most answers to the same question say."""
    target: str = ""
    """The field of the rows that holds what the verifier compares with. Nothing: it is read from the row's
    answer."""
    at_least: float = 1.0
    """The lowest score of a verifier that is kept."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Of a vote: the share of all answers to a question that must agree."""

    @field_validator("by")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (VOTE, *VERIFIERS):
            raise ValueError(f"there is no verifier '{value}'.{did_you_mean(value, (VOTE, *VERIFIERS))}")
        return value


def with_problem(task: Task, config: VerifyConfig | None) -> Task:
    """The task with what a verifier needs, where the row has it."""
    if config is None or config.by == VOTE:
        return task
    target = _target(task, config)
    if target is None:
        return task
    problem = Problem(
        id=task.id, prompt=task.prompt.messages, verifier=config.by, target=target, split="train"
    )
    return replace(task, problem=problem)


def _target(task: Task, config: VerifyConfig) -> Json:
    """What the verifier compares with; None where nobody says."""
    said = task.prompt.meta.get(config.target) if config.target else task.reference
    if isinstance(said, str):
        return plain_number(said) if config.by == "number" else [said.strip()] if said.strip() else None
    return said


def judged(candidates: Sequence[Candidate], config: VerifyConfig | None) -> list[tuple[Score, Reason | None]]:
    """For each candidate of a round its score, and why it is not kept, or None."""
    if config is None:
        return [(Score(value=None, reason="nobody judged"), None)] * len(candidates)
    scores = _voted(candidates, config) if config.by == VOTE else list(map(_verified, candidates))
    return [(score, _refused(score, config)) for score in scores]


def _verified(candidate: Candidate) -> Score:
    if candidate.problem is None:
        return Score(value=None, reason="ungraded: the row has no target")
    return verify(candidate.problem, candidate.says)


def _refused(score: Score, config: VerifyConfig) -> Reason | None:
    if score.value is None:
        return Reason(UNGRADED, says=score.reason)
    needed = config.share if config.by == VOTE else config.at_least
    return None if score.value >= needed else Reason(WRONG, says=score.reason)


def _voted(candidates: Sequence[Candidate], config: VerifyConfig) -> list[Score]:
    """The share of its group that says the same; 0 for who is outvoted, and where two lead."""
    said = [normalise(candidate.says) for candidate in candidates]
    votes: dict[str, Counter[str]] = {}
    for candidate, words in zip(candidates, said, strict=True):
        votes.setdefault(candidate.group, Counter())[words] += 1
    made: list[Score] = []
    for candidate, words in zip(candidates, said, strict=True):
        counts = votes[candidate.group]
        most, total = max(counts.values()), counts.total()
        leads = counts[words] == most and [*counts.values()].count(most) == 1
        share = counts[words] / total if leads else 0.0
        made.append(Score(value=share, reason=f"{counts[words]} of {total} say so, {most} the most frequent"))
    return made

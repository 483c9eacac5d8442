"""Rejection sampling: which written answers are right, by a verifier, or by a vote among several.

A verifier needs a target. A row's own field gives it, or it is read from the row's reference answer: the
last number for "number" (GSM8K's "#### 72"), the whole answer for the others. A task without one cannot be
judged: its answers are ungraded, which is counted apart and is no wrong answer. Where no task has one,
nothing is asked.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

from pydantic import Field, field_validator

from modelwright.base.config import Config
from modelwright.base.errors import UserError, closest, did_you_mean
from modelwright.base.schema import Json, Problem, Reason, Score
from modelwright.data.conversations.read import MOST_LETTERS, OWN
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.tasks import Task
from modelwright.environments.matching import MAX_CHARACTERS, normalise
from modelwright.environments.verify import VERIFIERS, plain_number, verify

VOTE = "vote"
FEWEST_VOTES = 3
"""Of two answers none can be outvoted."""
WRONG, UNGRADED = "wrong answer", "ungraded"
NEED_NO_TARGET = ("unknown", "length")
"""Verifiers that look at the answer alone."""


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
    """Of a vote: the share of all samples of a question that must agree, those that cannot be read among
    them."""

    @field_validator("by")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (VOTE, *VERIFIERS):
            raise ValueError(f"there is no verifier '{value}'.{did_you_mean(value, (VOTE, *VERIFIERS))}")
        return value

    @field_validator("target")
    @classmethod
    def _is_of_the_row(cls, value: str) -> str:
        if value in OWN:
            raise ValueError(
                f"'{value}' says where a row comes from and is no field to compare with: give the rows' field"
                " another name"
            )
        return value


_Vote = Decimal | tuple[str, tuple[str, ...]]
_WHOLLY_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3}){1,9}|[0-9]{1,30})(?:\.[0-9]{1,30})?")
_SIGNS = re.compile(r"-(?=\s*[\d.(])|(?<!\w)-(?=\w)|[+/^<>=%]|(?<=\d)\.(?=\d)")
"""Signs that change an answer; a hyphen within words and the mark of a list do not."""


def with_problems(tasks: Sequence[Task], config: VerifyConfig | None) -> list[Task]:
    """The tasks with what a verifier needs, where their rows have it. UserError where none has: all answers
    would be paid and none could be graded."""
    if config is None or config.by == VOTE:
        return list(tasks)
    _check_field(tasks, config.target)
    made = [_with_problem(task, config) for task in tasks]
    scores = [verify(task.problem, "") for task in made if task.problem]
    if all(score.value is None for score in scores):
        says = scores[0].reason if scores else "no target was found"
        where = f"the field '{config.target}'" if config.target else "the answer"
        raise UserError(
            f"verify: {{by: {config.by}}}: of {len(made):,} prompts none has a target in {where} of its row,"
            f" so no answer could be graded ({says}). Name the field that holds it (target), or another"
            " verifier, or {by: vote}"
        )
    return made


def _check_field(tasks: Sequence[Task], field: str) -> None:
    """Refuse a field that no row has."""
    if not field or any(field in task.prompt.meta for task in tasks):
        return
    names = sorted({name for task in tasks for name in task.prompt.meta} - set(OWN))
    near = closest(field, names)
    meant = f" Did you mean '{near}'?" if near else ""
    raise UserError(
        f"verify.target '{field}': no row has such a field besides its question and answer."
        f"{meant} Fields that can be named: {', '.join(names) or 'none'}"
        f" (texts of at most {MOST_LETTERS} letters, numbers, short lists and mappings). Without target the"
        " row's answer is compared with"
    )


def _with_problem(task: Task, config: VerifyConfig) -> Task:
    target = _target(task, config)
    if target is None and config.by not in NEED_NO_TARGET:
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


def judged(
    candidates: Sequence[Candidate], config: VerifyConfig | None, samples: int = 1
) -> list[tuple[Score, Reason | None]]:
    """For each candidate of a round its score, and why it is not kept, or None. `samples`: how often each
    question was asked, whether or not an answer could be read."""
    if config is None:
        return [(Score(value=None, reason="nobody judged"), None)] * len(candidates)
    scores = _voted(candidates, samples) if config.by == VOTE else list(map(_verified, candidates))
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


def _voted(candidates: Sequence[Candidate], samples: int) -> list[Score]:
    """The share of the asks of its question that say the same, unreadable answers among them; 0 for who is
    outvoted, where two lead, and for who says nothing."""
    said = [_vote_of(candidate.says) for candidate in candidates]
    votes: dict[str, Counter[_Vote]] = {}
    for candidate, vote in zip(candidates, said, strict=True):
        if vote is not None:
            votes.setdefault(candidate.group, Counter())[vote] += 1
    made: list[Score] = []
    for candidate, vote in zip(candidates, said, strict=True):
        if vote is None:
            made.append(Score(value=0.0, reason="a vote for nothing: the final answer is empty"))
            continue
        counts = votes[candidate.group]
        most, total = max(counts.values()), max(samples, counts.total())
        leads = counts[vote] == most and [*counts.values()].count(most) == 1
        share = counts[vote] / total if leads else 0.0
        made.append(Score(value=share, reason=f"{counts[vote]} of {total} say so, {most} the most frequent"))
    return made


def _vote_of(says: str) -> _Vote | None:
    """What two answers share that say the same: the number, where that is all there is, else the words and
    the signs that change what they mean. None where nothing is said."""
    shown = unicodedata.normalize("NFKC", says[:MAX_CHARACTERS]).replace("\u2212", "-").strip(" \n\t.*$")
    if _WHOLLY_NUMBER.fullmatch(shown):
        return Decimal(shown.replace(",", ""))
    vote = normalise(shown), tuple(_SIGNS.findall(shown))
    return vote if any(vote) else None

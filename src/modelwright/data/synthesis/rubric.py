"""A judge: a model that scores an answer by a rubric. What it is asked, and how strictly its word is read.

A judge is a check that can fail: a fault, an answer that was cut off, or one without a clear score leaves the
row ungraded, which is counted apart and is never a low score. Judges favour long answers, their own style and
what they are told to favour (arXiv 2306.05685): the row's text is quoted, so that it gives no orders, and
what a judge is worth should be measured on answers that people have scored.
"""

from __future__ import annotations

import re

from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.schema import Conversation, Message, Reason, Score
from modelwright.data.conversations.repeats import told
from modelwright.data.synthesis.quoting import NEVER_AN_ORDER, quoted

RUBRIC = (
    "5: right, complete, and as the request wants it. 4: right, with a small flaw. 3: partly right, or "
    "incomplete. 2: mostly wrong or beside the point. 1: wrong, empty, or no answer to the request."
)
LOWEST, HIGHEST = 1, 5
UNGRADED = "judge: ungraded"

_SCORE = re.compile(r"^[ \t*#>]*score[ \t*]*:[ \t*]*([^\n]*)$", re.IGNORECASE | re.MULTILINE)


class RubricConfig(Config):
    """What the judge is told, and what it takes to be kept."""

    rubric: str = RUBRIC
    """What each score from 1 to 5 means."""
    least: int = Field(default=4, ge=LOWEST, le=HIGHEST)
    """The lowest score that is kept."""


def rubric_prompt(config: RubricConfig, row: Conversation, seed: int) -> Conversation:
    """Asks for a score of the conversation's last answer."""
    *before, answer = row.messages
    asked = (
        f"{quoted('conversation', told(tuple(before)), seed)}\n\n"
        f"{quoted('answer', answer.content, seed)}\n\n"
        f"Judge the answer by this rubric. {config.rubric}\n"
        "First give your reasons in one or two sentences. Then write a last line of this form, with one "
        f"whole number from {LOWEST} to {HIGHEST}:\nScore: N"
    )
    system = f"You judge answers. {NEVER_AN_ORDER}"
    return Conversation(
        messages=(Message(role="system", content=system), Message(role="user", content=asked))
    )


def read_score(text: str, is_whole: bool) -> Score:
    """The score, 1 to 5, of the one line that says it, which must be the last. Anything else is ungraded."""
    if not is_whole:
        return Score(value=None, reason="ungraded: the judge was cut off")
    said = [match.strip(" \t*") for match in _SCORE.findall(text)]
    if len(said) != 1:
        return Score(value=None, reason=f"ungraded: {len(said)} lines with a score, expected one")
    last = text.strip().rpartition("\n")[2]
    if not _SCORE.search(last):
        return Score(value=None, reason=f"ungraded: the last line is {last[:60]!r}, expected the score")
    if not re.fullmatch(rf"[{LOWEST}-{HIGHEST}](?:[ \t]*/[ \t]*{HIGHEST})?\.?", said[0]):
        return Score(
            value=None, reason=f"ungraded: the score is {said[0][:60]!r}, expected {LOWEST} to {HIGHEST}"
        )
    why = text.strip()[: -len(last)].strip() if last != text.strip() else ""
    return Score(value=float(said[0][0]), reason=" ".join(why.split())[:300] or "no reason given")


def judged(score: Score, config: RubricConfig) -> Reason | None:
    """Why a row with this score is not kept."""
    if score.value is None:
        return Reason(UNGRADED, says=score.reason.removeprefix("ungraded: "))
    if score.value < config.least:
        return Reason("judge: low score", score.value, score.reason)
    return None

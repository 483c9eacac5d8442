"""Which written rows are worth learning. Each look gives a Reason; what the looks are is elsewhere in
`data/`.

A row is a conversation whose last turn was written by a model. Looks at one row come first (`RowChecks`), the
cheap ones before the others; then rows are compared with each other and with those they came from
(`repeated`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field, field_validator

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Conversation, Document, Reason
from modelwright.base.seams import Step
from modelwright.data import filters
from modelwright.data.conversations.flaws import KINDS, flaws
from modelwright.data.conversations.languages import other_language
from modelwright.data.conversations.repeats import Repeats
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.novelty import words_of
from modelwright.data.synthesis.requests import CONTAMINATED

CUT_SHORT, REFUSAL, ECHO = "cut short", "refusal", "echo of the request"
DUPLICATE, NEAR = "duplicate", "nearly a duplicate"

_REFUSES = re.compile(
    r"\A\W{0,3}(?:(?:i(?:'|’)?m|i am|my) (?:really |very |so )?(?:sorry|apologies|afraid)\b"
    r"|i (?:can(?:'|’)?t|cannot|can not|won(?:'|’)?t|will not|am unable to|am not able to|must decline)\b"
    r"|(?:sorry|unfortunately|apologies)\b[,.]? (?:but )?(?:i|as)\b"
    r"|as an? (?:ai|artificial|large|language)\b)",
    re.IGNORECASE,
)
REFUSAL_WORDS = 80
"""A longer answer says something besides (the bound of Evol-Instruct, arXiv 2304.12244)."""


class RowRules(Config):
    """What a row must be like to be kept."""

    flaws: tuple[str, ...] = (
        *(kind for kind, about in KINDS.items() if about.is_gate and kind != CONTAMINATED),
        *(CUT_SHORT, "another template in text", "control characters"),
    )
    """Kinds of flaws that take a row out, as `modelwright dataset check` names them."""
    refusals: bool = True
    """Whether short answers that begin with an apology or "as an AI" go. A guess by its words."""
    echo: float = Field(default=0.5, gt=0, le=1)
    """Answers go that begin with the whole request, where it is at least this share of their words; 1: only
    those that say nothing else."""
    same_language: bool = True
    """Whether answers go that are in another language than the request, where that can be told."""
    filters: tuple[dict[str, Any], ...] = ()
    """Filters of `prepare` that answers must pass: [{name: length, min_characters: 20}, {name: language,
    keep: [en]}]. What they would change about a text is not changed."""
    repeats: bool = True
    """Whether rows go that are the same, or nearly the same, as an earlier row or one that they came from."""

    @field_validator("flaws")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [kind for kind in value if kind not in KINDS]:
            raise ValueError(f"no kind of flaw '{unknown[0]}'. Known: {', '.join(KINDS)}")
        return value

    @field_validator("filters")
    @classmethod
    def _buildable(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for settings in value:
            try:
                filters.check(settings)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return value


class RowChecks:
    """Looks at rows one by one."""

    def __init__(self, rules: RowRules, index: Index | None = None) -> None:
        """`index`: evaluation items that no row may hold."""
        self._rules, self._index = rules, index
        self._steps = [filters.build(settings) for settings in rules.filters]

    def wrong(self, row: Conversation, is_whole: bool) -> Reason | None:
        """Why the row is not kept. `is_whole`: the answer ended by itself, and not at its greatest length."""
        rules, answer = self._rules, row.messages[-1].content
        if not answer.strip():
            return Reason("empty answer", says="nothing was written")
        if not is_whole:
            return Reason(CUT_SHORT, says="the answer has the greatest length that it may have")
        for flaw in flaws(row):
            if flaw.kind in rules.flaws:
                return Reason(flaw.kind, says=flaw.says)
        if rules.refusals and refuses(answer):
            return Reason(REFUSAL, says=repr(answer[:60]))
        if len(row.messages) > 1 and is_echo(row.messages[-2].content, answer, rules.echo):
            return Reason(ECHO, says=repr(answer[:60]))
        if rules.same_language and (languages := other_language(row)):
            return Reason("other language", says="asked in {}, answered in {}".format(*languages))
        for name, step in self._steps:
            if reason := _dropped(name, step, answer):
                return reason
        if self._index and (hit := self._index.check("\n".join(turn.content for turn in row.messages))):
            return Reason(CONTAMINATED, str(hit), f"{hit.kind}, {hit.score:.2f}")
        return None


def refuses(answer: str) -> bool:
    """Whether a short answer begins as refusals do."""
    return bool(_REFUSES.match(answer.lstrip())) and len(answer.split()) < REFUSAL_WORDS


def is_echo(request: str, answer: str, share: float) -> bool:
    """Whether the answer begins with all words of the request, and they are such a share of it or more."""
    asked, said = words_of(request), words_of(answer)
    return bool(asked) and said[: len(asked)] == asked and len(asked) >= share * len(said)


def repeated(rows: Sequence[Conversation], before: Sequence[Conversation] = ()) -> list[Reason | None]:
    """For each row, whether it says the same as an earlier one, or one of those `before` all of them."""
    if not rows:
        return []
    repeats = Repeats()
    for row in (*before, *rows):
        repeats.add(row)
    firsts = repeats.firsts()
    found: list[Reason | None] = []
    for place in range(len(before), len(before) + len(rows)):
        kinds = ((DUPLICATE, int(firsts.whole[place])), (NEAR, int(firsts.near[place])))
        rule, first = next(((rule, first) for rule, first in kinds if first != place), ("", place))
        found.append(Reason(rule, says=_which(first, len(before))) if rule else None)
    return found


def _which(first: int, num_before: int) -> str:
    return (
        f"as in source row {first + 1:,}" if first < num_before else f"as in row {first - num_before + 1:,}"
    )


def _dropped(name: str, step: Step, text: str) -> Reason | None:
    """Why a data filter drops a text."""
    reasons: list[Reason] = []
    document = Document(text=text, id=sha256_text(text), source=name)
    for _ in step(iter((document,)), lambda _, reason: reasons.append(reason)):
        pass
    return reasons[0] if reasons else None

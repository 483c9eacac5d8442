"""What a written row says of itself: who wrote it, asked what and how, who judged it, and what it took."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import NamedTuple

from modelwright.base.config import Config
from modelwright.base.policy import NO_JURISDICTION
from modelwright.base.provenance import UNKNOWN
from modelwright.base.schema import Answer, Conversation, Json, Prompt, Reason, Sampling, Score
from modelwright.data.conversations.write import as_row
from modelwright.data.sources import facts_of
from modelwright.data.synthesis.method import Candidate

RECORD = "synthesis"
"""The field of a row that holds it."""
MILLION = 1e6
NOWHERE = (UNKNOWN, UNKNOWN, UNKNOWN, None)
"""The facts of a row that names no origin."""


class PriceConfig(Config):
    """What a million tokens cost."""

    prompt: float = 0.0
    """Tokens that are read."""
    written: float = 0.0
    """Tokens that are written."""
    currency: str = "USD"
    """Of both."""

    def of(self, prompt_tokens: int, tokens: int) -> float:
        """What so many tokens cost."""
        return (self.prompt * prompt_tokens + self.written * tokens) / MILLION


class Terms(NamedTuple):
    """What is stated of a writer, and so holds for all that it writes."""

    licence: str = UNKNOWN
    jurisdiction: str = UNKNOWN
    personal_data: bool | None = None


def row_of(
    candidate: Candidate, prompt: Prompt, answer: Answer, writer: str, terms: Terms, by: str, score: Score
) -> dict[str, Json]:
    """A row as it is written, with its record. `terms` are the writer's; `by` judged, with this score."""
    meta = candidate.conversation.meta
    said = {
        "writer": writer,
        "model": answer.model,
        "prompt": messages(prompt.conversation),
        "sampling": settings(prompt.sampling),
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "judgement": {"by": by, "score": score.value, "reason": score.reason},
        "group": candidate.group,
        **({"coordinates": dict(candidate.coordinates)} if candidate.coordinates else {}),
    }
    source, origin, jurisdiction, personal = facts_of(meta) if "source" in meta else NOWHERE
    place, personal = _place(jurisdiction, terms.jurisdiction), _personal(personal, terms.personal_data)
    facts = {"source": source, "licence": joined(origin, terms.licence), "jurisdiction": place}
    known = {} if personal is None else {"personal_data": personal}
    return as_row(replace(candidate.conversation, meta={}), {**facts, **known, RECORD: said})


def dropped_of(prompt: Prompt, text: str, reason: Reason) -> dict[str, Json]:
    """A line on what was not kept, and why."""
    asked = {"prompt": messages(prompt.conversation), "seed": prompt.sampling.seed}
    return {"rule": reason.rule, "reason": str(reason), "answer": text, **asked}


def messages(conversation: Conversation) -> Json:
    """As rows hold them."""
    return as_row(replace(conversation, meta={}), {})["messages"]


def settings(sampling: Sampling) -> dict[str, Json]:
    """What is not as usual, and the seed."""
    usual = asdict(Sampling())
    always = ("temperature", "max_tokens", "seed")
    return {name: value for name, value in asdict(sampling).items() if name in always or value != usual[name]}


def joined(origin: str, writer: str) -> str:
    """The licence of a text under the terms of where its prompt comes from and of who wrote it."""
    parts = sorted({origin, writer})
    return " AND ".join(f"({part})" if " OR " in part and len(parts) > 1 else part for part in parts)


def _place(origin: str, writer: str) -> str:
    """The jurisdiction of such a text: unknown where the two name different ones, or one of them none; what
    nobody's law governs leaves it to the other."""
    places = {origin, writer} - {NO_JURISDICTION} or {NO_JURISDICTION}
    return places.pop() if len(places) == 1 else UNKNOWN


def _personal(origin: bool | None, writer: bool | None) -> bool | None:
    """Whether such a text has personal data: where one of the two brings some, and surely not where neither
    does."""
    if origin or writer:
        return True
    return False if origin is False and writer is False else None

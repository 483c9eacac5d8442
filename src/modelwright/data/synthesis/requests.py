"""Which requests are worth an answer. What is found out here costs no answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.schema import Reason
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.novelty import NOTHING_NEAR, Novelty
from modelwright.data.synthesis.quoting import bare, tagged

CONTAMINATED = "in an evaluation set"


_LEAKED = re.compile(
    r"</?request>|\[(?:end of )?request [0-9a-f]{16}\]"
    r"|\b(?:given|original|new|rewritten|created) (?:request|prompt)\b|#(?:given|rewritten|created) prompt#",
    re.IGNORECASE,
)
"""Words of this prompt, and of the paper's, which stand in a request only where a model repeats what it was
told."""


class RequestRules(Config):
    """What a written request must be like."""

    novelty: float = Field(default=0.7, gt=0, le=1)
    """A request must be less than so much like each one before it (ROUGE-L; Self-Instruct has 0.7)."""
    min_words: int = Field(default=3, ge=1)
    """Shorter requests ask nothing in particular."""
    max_words: int = Field(default=150, ge=1)
    """Longer ones are mostly an answer already, or run on."""
    beyond_text: tuple[str, ...] = (
        "image",
        "images",
        "photo",
        "picture",
        "graph",
        "plot",
        "draw",
        "video",
        "audio",
    )
    """Words of requests that text alone cannot meet. A word list errs on both sides; [] takes all."""


class Requests:
    """Takes new requests, each once. Those that were there before (`seen`) count for novelty."""

    def __init__(self, rules: RequestRules, seen: Iterable[str] = (), index: Index | None = None) -> None:
        """`index`: evaluation items that no request may ask."""
        self._rules, self._index, self._all = rules, index, Novelty()
        words = "|".join(re.escape(word) for word in rules.beyond_text)
        self._beyond = re.compile(rf"\b(?:{words})\b", re.IGNORECASE) if words else None
        for text in seen:
            self._all.add(text)

    def admit(self, request: str, is_new: bool = True) -> Reason | None:
        """None, and the request counts from now on; or why it is not taken. `is_new`: it must be unlike all
        before it."""
        reason = self._wrong(request, is_new)
        if reason is None:
            self._all.add(request)
        return reason

    def _wrong(self, request: str, is_new: bool) -> Reason | None:
        rules, words = self._rules, len(request.split())
        if not any(map(str.isalpha, request)):
            return Reason("request: empty", says=repr(request[:40]))
        if words < rules.min_words and request.isascii():  # not every script has spaces between words
            return Reason("request: too short", words, f"at least {rules.min_words} words asked")
        if words > rules.max_words:
            return Reason("request: too long", words, f"at most {rules.max_words} words asked")
        if self._beyond and (found := self._beyond.search(request)):
            return Reason("request: needs more than text", found[0].lower())
        place, likeness = self._all.nearest(request) if is_new else NOTHING_NEAR
        if likeness >= rules.novelty:
            return Reason("request: like an earlier one", round(likeness, 4), f"that of place {place:,}")
        if self._index and (hit := self._index.check(request)):
            return Reason(f"request: {CONTAMINATED}", str(hit), f"{hit.kind}, {hit.score:.2f}")
        return None


def read_request(text: str, is_whole: bool) -> str | Reason:
    """The request that an answer holds: what stands between the tags, or all of it where there are none.
    `is_whole`: the answer was not cut off."""
    found = tagged(text, "request")
    if found is None:
        if not is_whole or "<request>" in text:
            return Reason("request: cut short", says=f"it ends with {text[-30:]!r}")
        found = bare(text)
    if _LEAKED.search(found):
        return Reason("request: echo of the prompt", says=repr(found[:60]))
    return found if found.strip() else Reason("request: empty")

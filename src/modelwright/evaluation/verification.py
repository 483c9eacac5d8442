"""Is an exported file what we meant? An independent program reads it, and three things are compared.

Faults of an export are silent: the file loads, and talks nonsense. So the reader's tokens must be ours
on every torture string, its chat template must render the same characters, and its logits must agree
within the tolerance of the stored type. A check that could not be made is "not verified", never a pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from modelwright.base.metrics import finite
from modelwright.base.schema import Conversation
from modelwright.evaluation.compare import kl_divergence

Status = Literal["passed", "failed", "not verified"]


class Reader(Protocol):
    """A model as one program reads it."""

    def tokenize(self, text: str) -> list[int]:
        """Ids of plain text: what looks like a special token in it stays plain text."""
        ...

    def logits(self, ids: Sequence[int]) -> Tensor:
        """(T, V) fp32 logits of each position of one sequence."""
        ...

    def render(self, conversation: Conversation) -> str:
        """The conversation in the model's chat template, up to where the next answer begins."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One check of one file by one reader."""

    file: str
    reader: str
    version: str
    check: str
    """"tokens", "chat template", "logits", or "reads it"."""
    status: Status
    measured: float | None = None
    """None also where the reader's answer was no number."""
    tolerance: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        measured = self.check == "logits" and self.measured is not None  # the others are counts, in words
        numbers = f" {self.measured:.1e} (at most {self.tolerance:.0e})" if measured else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.file}, {self.check}, {self.reader} {self.version}: {self.status}{numbers}{reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What the readers are asked, and the answers of the model that was exported."""

    texts: tuple[str, ...]
    tokens: tuple[list[int], ...]
    conversations: tuple[Conversation, ...]
    rendered: tuple[str, ...]
    sequences: tuple[list[int], ...]
    logits: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        ours: Reader,
        texts: Sequence[str],
        conversations: Sequence[Conversation],
        sequences: Sequence[Sequence[int]],
    ) -> Evidence:
        """Ask our own model once; every file is held against these answers."""
        return cls(
            texts=tuple(texts),
            tokens=tuple(ours.tokenize(text) for text in texts),
            conversations=tuple(conversations),
            rendered=tuple(ours.render(conversation) for conversation in conversations),
            sequences=tuple(list(ids) for ids in sequences),
            logits=tuple(ours.logits(ids) for ids in sequences),
        )


def judge(
    evidence: Evidence, theirs: Reader, *, file: str, reader: str, version: str, tolerance: float
) -> list[Verdict]:
    """Three verdicts; `tolerance` is the largest mean KL divergence in nats a token."""
    tokens = _differences(
        [(repr(t), a, theirs.tokenize(t)) for t, a in zip(evidence.texts, evidence.tokens, strict=True)]
    )
    pairs = zip(evidence.conversations, evidence.rendered, strict=True)
    template = _differences([("a conversation", ours, theirs.render(talk)) for talk, ours in pairs])
    divergence, note = _divergence(evidence, theirs)
    no_turns = not_verified(
        file=file, reader=reader, version=version, check="chat template",
        reason="the model's chat template takes none of the conversations, or there is none",
    )  # fmt: skip

    def verdict(check: str, measured: float, limit: float, reason: str) -> Verdict:
        status: Status = "passed" if measured <= limit else "failed"  # so that a NaN fails
        return Verdict(
            file=file, reader=reader, version=version, check=check,
            status=status, measured=finite(measured),
            tolerance=limit, reason=reason,
        )  # fmt: skip

    return [
        verdict("tokens", *tokens),
        verdict("chat template", *template) if evidence.conversations else no_turns,
        verdict("logits", divergence, tolerance, note),
    ]


def _differences(cases: Sequence[tuple[str, object, object]]) -> tuple[float, float, str]:
    """(how many cases differ, how many may, the first of them in words)."""
    wrong = [(name, ours, theirs) for name, ours, theirs in cases if ours != theirs]
    if not wrong:
        return 0.0, 0.0, f"{len(cases)} of {len(cases)} alike"
    name, ours, theirs = wrong[0]
    words = f"{len(wrong)} of {len(cases)} differ, first {name}: ours {ours!r:.80}, theirs {theirs!r:.80}"
    return float(len(wrong)), 0.0, words


def _divergence(evidence: Evidence, theirs: Reader) -> tuple[float, str]:
    """Mean KL divergence over all positions, and the rest of what was measured in words."""
    divergences: list[Tensor] = []
    largest = 0.0
    for ids, ours in zip(evidence.sequences, evidence.logits, strict=True):
        logits = theirs.logits(ids)
        if logits.shape != ours.shape:
            return float("inf"), f"logits of shape {tuple(logits.shape)}, ours are {tuple(ours.shape)}"
        if not torch.isfinite(logits).all():
            return float("inf"), "logits that are not finite numbers"
        divergences.append(kl_divergence(ours, logits))
        largest = max(largest, float((ours - logits).abs().max()))
    if not divergences:
        raise ValueError("No sequences to compare: evidence without logits proves nothing.")
    every = torch.cat(divergences)
    return float(every.mean()), f"KL in nats over {len(every)} tokens; largest logit difference {largest:.2e}"


def could_not_read(*, file: str, reader: str, version: str, reason: str) -> Verdict:
    """The reader is there and refuses the file: a failure."""
    return Verdict(
        file=file, reader=reader, version=version, check="reads it", status="failed", reason=reason
    )


def not_verified(
    *, file: str, reader: str, reason: str, version: str = "", check: str = "reads it"
) -> Verdict:
    """The reader is not there, or has nothing to be asked for this check."""
    return Verdict(
        file=file, reader=reader, version=version, check=check, status="not verified", reason=reason
    )

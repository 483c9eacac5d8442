"""What a study of vocabularies found, and what follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from modelwright.tokenizer.fertility import Fertility

CLOSE = 0.005
"""Bits per byte that differ by less than this share are taken for equal: one small model of one seed cannot
tell more."""
KNEE = 0.05
"""Without models: a step to the next size is worth it while it shortens text by at least this share."""
HEAVY = 0.3
"""An embedding with more than this share of a model's parameters is worth a warning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One vocabulary."""

    vocab_size: int
    fertility: Fertility
    """On the corpus's held-out documents."""
    unused: int
    """Tokens that do not occur in them."""
    embedding_parameters: int
    target_parameters: int
    """Of the model that the vocabulary is for, embedding included."""
    gini: float | None = None
    worst_over_median: float | None = None
    bits_per_byte: float | None = None
    model_parameters: int | None = None

    def trained(self, metrics: Mapping[str, Any]) -> Size:
        """With what a small model of this size came to."""
        return replace(
            self,
            bits_per_byte=float(metrics["validation_bits_per_byte"]),
            model_parameters=int(metrics["parameters"]),
        )

    @property
    def embedding_share(self) -> float:
        """Share of the target's parameters that the embedding takes."""
        return self.embedding_parameters / self.target_parameters

    def row(self) -> dict[str, Any]:
        """The figures for a table."""
        return {
            "vocab_size": self.vocab_size,
            **self.fertility.row(),
            "unused_tokens": self.unused,
            "embedding_parameters": self.embedding_parameters,
            "embedding_share": round(self.embedding_share, 4),
            "gini": self.gini,
            "worst_over_median": self.worst_over_median,
            "bits_per_byte": self.bits_per_byte,
            "model_parameters": self.model_parameters,
        }


@dataclass(frozen=True, slots=True)
class Language:
    """One language in one vocabulary."""

    vocab_size: int
    name: str
    premium: float
    fertility: Fertility

    def row(self) -> dict[str, Any]:
        """The figures for a table."""
        premium = round(self.premium, 4)
        names = {"vocab_size": self.vocab_size, "language": self.name, "premium": premium}
        return {**names, **self.fertility.row()}


@dataclass(frozen=True, slots=True)
class Recommendation:
    """A size, and why."""

    vocab_size: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """All of it."""

    sizes: tuple[Size, ...]
    languages: tuple[Language, ...]
    reference: str
    recommendation: Recommendation

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "recommendation": {
                "vocab_size": self.recommendation.vocab_size,
                "reasons": list(self.recommendation.reasons),
            },
            "reference": self.reference,
            "sizes": [size.row() for size in self.sizes],
            "languages": [language.row() for language in self.languages],
        }


def recommend(sizes: Sequence[Size]) -> Recommendation:
    """The smallest vocabulary that is as good as the best, and what speaks for and against it."""
    ordered = sorted(sizes, key=lambda size: size.vocab_size)
    chosen, why = _by_models(ordered) if all(s.bits_per_byte for s in ordered) else _by_length(ordered)
    reasons = [f"Recommended: {chosen.vocab_size:,} ids. {why}"]
    share = chosen.embedding_share
    cost = f"Its embedding has {chosen.embedding_parameters / 1e6:.2f}M parameters, {share:.0%} of the target"
    warning = ": a deeper target or a smaller vocabulary is worth a look" if share > HEAVY else ""
    reasons.append(f"{cost}{warning}.")
    if chosen is ordered[-1] and len(ordered) > 1:
        reasons.append("It is the largest that was tried, so the best may be larger: try more.")
    if chosen is ordered[0] and len(ordered) > 1:
        reasons.append("It is the smallest that was tried, so a smaller one may do: try less.")
    if chosen.unused > 0.05 * chosen.vocab_size:
        reasons.append(
            f"{chosen.unused:,} of its tokens do not occur in the held-out text: learn from text that is"
            " more like it, or hold out more to be sure."
        )
    if chosen.worst_over_median is not None:
        reasons.append(
            f"Languages come out unequal: the worst needs {chosen.worst_over_median:.1f} times the tokens"
            f" of the median for the same text (Gini {chosen.gini:.2f}). More text of the worst, by"
            " tokenizer.balance, evens this out; a larger vocabulary alone does not."
        )
    return Recommendation(chosen.vocab_size, tuple(reasons))


def _by_models(ordered: Sequence[Size]) -> tuple[Size, str]:
    scores = {size.vocab_size: size.bits_per_byte or 0.0 for size in ordered}
    best = min(scores.values())
    chosen = next(size for size in ordered if scores[size.vocab_size] <= best * (1 + CLOSE))
    if scores[chosen.vocab_size] == best:
        return (
            chosen,
            f"Its small model has the best bits per byte ({best:.4f}), each trained on the same text.",
        )
    return chosen, (
        f"It is the smallest whose small model is within {CLOSE:.1%} of the best bits per byte"
        f" ({scores[chosen.vocab_size]:.4f} against {best:.4f}), each trained on the same text."
    )


def _by_length(ordered: Sequence[Size]) -> tuple[Size, str]:
    chosen = ordered[0]
    for smaller, larger in pairwise(ordered):
        if 1 - larger.fertility.tokens / max(1, smaller.fertility.tokens) < KNEE:
            break
        chosen = larger
    return chosen, (
        f"The next size would shorten text by less than {KNEE:.0%}. No model was trained: bits per byte"
        " would be the better judge (train_bytes)."
    )

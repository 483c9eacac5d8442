"""The quality classifier: learn, score, save, load.

What DCLM and FineWeb-Edu do with fastText and a model's judgements, here with whatever two folders its user
calls good and ordinary. It learns what tells those two apart, topic and author included: its most
telling n-grams are kept so that one can see what that is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from modelwright.base import config
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import atomic_path
from modelwright.data.quality.features import Vector, buckets, tokens, vector
from modelwright.data.quality.fit import Weights, fit, sigmoid
from modelwright.data.quality.roc import auc, auc_interval

MIN_DOCUMENTS = 50
MAX_IMBALANCE = 20
MAX_SHARED = 0.1


class Config(config.Config):
    """How a classifier is learned."""

    bits: int = Field(default=18, ge=8, le=24)
    """2^bits buckets for n-grams."""
    epochs: int = Field(default=8, ge=1)
    rate: float = Field(default=0.5, gt=0)
    """AdaGrad's step."""
    held_out: float = Field(default=0.2, gt=0, lt=1)
    """Share of each kind that is not learned from, and judges."""
    max_documents: int = Field(default=20_000, ge=MIN_DOCUMENTS)
    """Of each kind: the first ones are taken."""
    num_telling: int = Field(default=50, ge=0)
    """How many n-grams of each kind are kept to be shown."""
    seed: int = 0


class About(config.Config):
    """What a classifier was learned from, and how well it judges text that it has not seen."""

    config: Config
    good_documents: int
    ordinary_documents: int
    good_sha256: str
    """Hash of the hashes of the texts, in order."""
    ordinary_sha256: str
    auc: float
    auc_low: float
    auc_high: float
    """The 95 % bootstrap interval."""
    held_out_good: list[float]
    """Scores of the good texts held out, for plots and thresholds."""
    held_out_ordinary: list[float]
    telling_good: list[tuple[str, float]]
    """(n-gram, weight), the most telling first."""
    telling_ordinary: list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class QualityModel:
    """A linear model over hashed n-grams."""

    weights: Weights
    about: About

    @classmethod
    def learn(
        cls, good: Iterable[str], ordinary: Iterable[str], config: Config | None = None
    ) -> QualityModel:
        """Learn from texts of two kinds. Raises UserError where there are too few, where one kind has
        over 20 times as many as the other, or where over a tenth of the smaller is in both."""
        config = config or Config()
        sides = [_take(texts, config.max_documents) for texts in (good, ordinary)]
        _refuse_bad_sets(*sides)
        random = np.random.default_rng(config.seed)
        taught: list[str] = []
        labels: list[float] = []
        judging: list[list[str]] = []
        for label, texts in zip((1.0, 0.0), sides, strict=True):
            order = random.permutation(len(texts)).tolist()
            num_judging = max(1, round(config.held_out * len(texts)))
            judging.append([texts[index] for index in order[:num_judging]])
            taught += [texts[index] for index in order[num_judging:]]
            labels += [label] * (len(texts) - num_judging)
        rows = [vector(text, config.bits) for text in taught]
        weights = fit(
            rows, np.array(labels, np.float32), config.bits, config.epochs, config.rate, config.seed
        )
        scores = [np.array([_score(weights, vector(text, config.bits)) for text in side]) for side in judging]
        low, high = auc_interval(*scores, seed=config.seed)
        telling = _telling(weights, taught, rows, labels, config)
        about = About(
            config=config,
            good_documents=len(sides[0]),
            ordinary_documents=len(sides[1]),
            good_sha256=_hash_of(sides[0]),
            ordinary_sha256=_hash_of(sides[1]),
            auc=auc(*scores),
            auc_low=low,
            auc_high=high,
            held_out_good=scores[0].tolist(),
            held_out_ordinary=scores[1].tolist(),
            telling_good=telling[0],
            telling_ordinary=telling[1],
        )
        return cls(weights, about)

    def score(self, text: str) -> float:
        """The chance that the text is of the good kind, were both equally frequent: 0 to 1."""
        return _score(self.weights, vector(text, self.about.config.bits))

    def threshold(self, keep_share: float) -> float:
        """The score that this share of the ordinary texts held out reaches."""
        if not 0 < keep_share <= 1:
            raise UserError(f"keep_share is {keep_share}, expected a share above 0 and at most 1.")
        return float(np.quantile(self.about.held_out_ordinary, 1 - keep_share))

    def save(self, path: Path) -> None:
        """Write one safetensors file: the weights, and what is known about them as JSON."""
        with atomic_path(path) as temporary:
            tensors = {"weights": self.weights.bucket, "bias": np.array([self.weights.bias], np.float64)}
            save_file(tensors, temporary, metadata={"about": self.about.model_dump_json()})

    @classmethod
    def load(cls, path: Path) -> QualityModel:
        """Read what `save` wrote. Raises UserError for a missing file and DamagedFile for a wrong one."""
        if not Path(path).is_file():
            raise UserError(f"quality model {path}: no such file. Learn one, or correct the path.")
        try:
            with safe_open(path, "numpy") as file:
                bucket, bias = file.get_tensor("weights"), file.get_tensor("bias")
                about = About.model_validate(json.loads((file.metadata() or {})["about"]))
        except (SafetensorError, KeyError, ValueError, ValidationError, OSError) as error:
            raise DamagedFile(f"{path} is not a quality model: {error}. Learn it anew.") from error
        if bucket.shape != (1 << about.config.bits,) or bucket.dtype != np.float32 or bias.shape != (1,):
            raise DamagedFile(f"{path}: weights of shape {bucket.shape}, expected {1 << about.config.bits}.")
        return cls(Weights(bucket, float(bias[0])), about)


def _score(weights: Weights, row: Vector) -> float:
    bucket, value = row
    return float(sigmoid(float(weights.bucket[bucket] @ value) + weights.bias))


def _take(texts: Iterable[str], most: int) -> list[str]:
    taken: list[str] = []
    for text in texts:
        if len(taken) == most:
            break
        if text.strip():
            taken.append(text)
    return taken


def _refuse_bad_sets(good: Sequence[str], ordinary: Sequence[str]) -> None:
    small, large = sorted((len(good), len(ordinary)))
    found = f"{len(good):,} good and {len(ordinary):,} ordinary texts"
    if small < MIN_DOCUMENTS:
        raise UserError(
            f"a quality model needs at least {MIN_DOCUMENTS} texts of each kind, received {found}."
        )
    if large > MAX_IMBALANCE * small:
        raise UserError(
            f"a quality model needs kinds of similar number (at most {MAX_IMBALANCE}:1), received {found}."
        )
    shared = len(set(good) & set(ordinary))
    if shared > MAX_SHARED * min(len(set(good)), len(set(ordinary))):
        raise UserError(
            f"{shared:,} texts are in both kinds ({found}): nothing tells them apart. Name different sources."
        )


def _hash_of(texts: Sequence[str]) -> str:
    whole = hashlib.sha256()
    for text in texts:
        whole.update(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return whole.hexdigest()


def _telling(
    weights: Weights, texts: Sequence[str], rows: Sequence[Vector], labels: Sequence[float], config: Config
) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
    """The n-grams that tell most: weight times the difference of the two kinds' mean values. The weight
    alone would show rare n-grams, which AdaGrad takes large steps for, and the mean alone the commas."""
    means = np.zeros((2, 1 << config.bits), np.float64)
    for label, (bucket, value) in zip(labels, rows, strict=True):
        means[int(label), bucket] += value
    means /= np.maximum(np.bincount(np.array(labels, np.int64), minlength=2), 1)[:, None]
    parts = weights.bucket * (means[1] - means[0])
    order: list[int] = np.argsort(-parts, kind="stable").tolist()
    chosen = [
        [bucket for bucket in order if parts[bucket] > 0 and weights.bucket[bucket] * sign > 0]
        for sign in (1, -1)
    ]
    chosen = [side[: config.num_telling] for side in chosen]
    names = _names({*chosen[0], *chosen[1]}, texts, config.bits)
    good, ordinary = ([(names[bucket], float(weights.bucket[bucket])) for bucket in side] for side in chosen)
    return good, ordinary


def _names(wanted: set[int], texts: Sequence[str], bits: int) -> dict[int, str]:
    """The most frequent n-gram of each bucket wanted."""
    counts: dict[int, Counter[str]] = {bucket: Counter() for bucket in wanted}
    for text in texts:
        words = tokens(text)
        ngrams = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
        for bucket, ngram in zip(buckets(words, bits).tolist(), ngrams, strict=True):
            if bucket in counts:
                counts[bucket][ngram] += 1
    return {bucket: min(found, key=lambda ngram: (-found[ngram], ngram)) for bucket, found in counts.items()}

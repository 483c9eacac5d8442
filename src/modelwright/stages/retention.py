"""What a tuned model has kept of what it could before: the same problems and texts, before and after.

Tuning on one thing makes a model forget others (catastrophic forgetting; McCloskey and Cohen 1989; in tuned
language models arXiv 2308.08747). So a general suite is asked, and general text read, once with the weights
that training begins with and once with those that it hands on, and compared problem by problem. A loss that
is larger than was allowed, and shown not to be chance, is flagged; a larger one that may be chance is called
unclear, and more problems would settle it.

Not to be confused with `forget`, which takes documents out of what models learn from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import torch
from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.errors import GateRefused, UserError
from modelwright.base.files import write_json
from modelwright.base.metrics import finite
from modelwright.base.run import Run
from modelwright.base.schema import Sampling
from modelwright.base.seeding import derive
from modelwright.data.atlas.documents import documents
from modelwright.environments.task import higher_is_better, max_tokens_of, select
from modelwright.evaluation.generation import graded, run_task
from modelwright.evaluation.likelihood import sums_by_document
from modelwright.evaluation.statistics import Difference, Scores, holm, paired_difference
from modelwright.model.transformer import Transformer
from modelwright.stages.asking import prompts_of
from modelwright.tokenizer.bpe import BPETokenizer

FORGETTING = "forgetting.json"
SIGNIFICANT = 0.05
TEXT = "general text"
SLOTS = 32
MAX_TEXT_BYTES, BYTES_PER_TOKEN = 16_000_000, 16
"""How much of a text is read at most: far more than its tokens hold."""


class ForgettingConfig(Config):
    """What is asked before and after, and how much of it may be lost."""

    suites: tuple[str, ...] = ("arithmetic", "coreference", "multilingual")
    """Names of tasks (environments/tasks)."""
    limit: int = Field(default=100, gt=0)
    """Problems of each, at most."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer, where a task does not say itself."""
    text: str = "atlas"
    """General text that nothing is learned from here: the embedded corpus by its name, the path of a file in
    UTF-8, or "" for none."""
    text_tokens: int = Field(default=20_000, gt=0)
    """How much of it is read."""
    at_most: float = Field(default=0.02, ge=0, lt=1)
    """What may be lost: of a suite's score so much (0.02 is two problems in a hundred), and bits per byte may
    rise by this share of what they were."""
    gate: bool = False
    """Whether the stage fails (exit code 3) where more was lost. The model is kept beside the log."""


@dataclass(slots=True)
class Found:
    """What was measured of one state of the model."""

    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Suite -> problem -> score."""
    text: Scores | None = None
    """Bits and bytes of each window of the text."""


class Retention:
    """Measures a model before and after it is trained."""

    def __init__(
        self, config: ForgettingConfig, model: Transformer, tokenizer: BPETokenizer, run: Run
    ) -> None:
        self._config, self._model, self._tokenizer, self._run = config, model, tokenizer, run
        self._tasks = select(config.suites) if config.suites else {}
        self._problems = {
            name: task.problems(derive(run.seed, "problems", name), config.limit)
            for name, task in self._tasks.items()
        }
        self._documents = list(map(tokenizer.encode, texts(config, derive(run.seed, TEXT))))
        self._before = self._measured()

    def _measured(self) -> Found:
        """The model as it is now."""
        self._model.train(False)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            return Found(self._scores(), self._text() if self._documents else None)

    def _scores(self) -> dict[str, dict[str, float]]:
        if self._run.sampler_of is None:
            raise nobody_answers()
        sampler = self._run.sampler_of(self._model, self._tokenizer, SLOTS)
        prompts, seed = prompts_of(self._tokenizer), self._run.seed
        context = self._model.config.max_position_embeddings
        found: dict[str, dict[str, float]] = {}
        for name, task in self._tasks.items():
            sampling = Sampling(max_tokens=max_tokens_of(task, self._config.max_tokens), seed=seed)
            asked = [each for each in self._problems[name] if len(prompts.ids(each)) < context]
            found[name] = graded(run_task(task, asked, sampler, prompts, sampling))
        return found

    def _text(self) -> Scores:
        pairs, _ = sums_by_document(
            self._model,
            self._documents,
            self._tokenizer.byte_lengths,
            max_tokens=self._config.text_tokens,
            window=min(256, self._model.config.max_position_embeddings),
            device=str(self._model.head.device),
            by_window=True,
        )
        return Scores(tuple(nats / math.log(2) for nats, _ in pairs), tuple(size for _, size in pairs))

    def report(self) -> dict[str, Any]:
        """Measure the model again: `forgetting.json`, lines for the log, and what goes into the manifest."""
        rows = self.compare(self._before, self._measured())
        write_json(self._run.dir / FORGETTING, {"at_most": self._config.at_most, "compared": rows})
        for row in rows:
            self._run.log(describe(row))
        lost = [row["suite"] for row in rows if row["verdict"] == "forgotten"]
        if lost and self._config.gate:
            raise GateRefused(
                f"tuning cost more than {self._config.at_most:g} of {', '.join(lost)} ({FORGETTING} has the "
                "figures): train less or at a lower rate, tune an adapter, mix general conversations in, or "
                "raise finetune.forgetting.at_most"
            )
        return {"forgotten": lost}

    def compare(self, before: Found, after: Found) -> list[dict[str, Any]]:
        """A row a suite, and one for the text: what was lost (above 0 is worse), with its interval."""
        changes: dict[str, tuple[float, float, Difference, float]] = {}
        for name, scored in before.scores.items():
            both = [problem for problem in scored if problem in after.scores[name]]
            if both and higher_is_better(self._tasks[name]) is not None:
                old, new = ([found.scores[name][p] for p in both] for found in (before, after))
                sign = -1.0 if higher_is_better(self._tasks[name]) else 1.0
                changes[name] = (fmean(old), fmean(new), paired_difference(old, new), sign)
        if before.text and after.text:
            size = before.text.value
            old, new = ([each / size for each in of.contributions()] for of in (before.text, after.text))
            changes[TEXT] = (size, after.text.value, paired_difference(old, new), 1.0)
        corrected = holm({name: found.p_value for name, (_, _, found, _) in changes.items()})
        return [self._row(name, *change, corrected[name]) for name, change in changes.items()]

    def _row(
        self, name: str, before: float, after: float, found: Difference, sign: float, p_adjusted: float
    ) -> dict[str, Any]:
        low, high = sorted((sign * found.low, sign * found.high))
        lost, is_text = sign * found.mean, name == TEXT
        too_much, sure = lost > self._config.at_most, p_adjusted < SIGNIFICANT
        return {
            "suite": name,
            "unit": "bits per byte" if is_text else "share",
            "before": before,
            "after": after,
            "lost": {"mean": lost, "low": finite(low), "high": finite(high)},
            "n": found.n,
            "p_adjusted": p_adjusted,
            "verdict": ("forgotten" if sure else "unclear") if too_much else "kept",
        }


def nobody_answers() -> UserError:
    """What is said where the model that is trained cannot be asked, as among several processes."""
    return UserError(
        "finetune.forgetting asks for answers, and nobody answers here: train in one process, or "
        "compare by 'evaluate'"
    )


def texts(config: ForgettingConfig, seed: int) -> list[str]:
    """The general text that a recipe names."""
    most = min(MAX_TEXT_BYTES, BYTES_PER_TOKEN * config.text_tokens)
    if config.text == "atlas":
        return [document.text for document in documents(seed, most)]
    if not config.text:
        return []
    try:
        with open(config.text, encoding="utf-8", errors="replace") as file:
            return [read] if (read := file.read(most)) else []
    except OSError as error:
        raise UserError(
            f"finetune.forgetting.text: {config.text} cannot be read ({error.strerror}): expected 'atlas' or "
            "the path of a text file"
        ) from error


def describe(row: Mapping[str, Any]) -> str:
    """A row for the log."""
    lost = row["lost"]
    ends = ", ".join("unbounded" if lost[end] is None else f"{lost[end]:+.3f}" for end in ("low", "high"))
    return (
        f"{row['suite']}: {row['before']:.3f} before, {row['after']:.3f} after ({row['unit']}), lost "
        f"{lost['mean']:+.3f} [{ends}] on {row['n']}: {row['verdict']}"
    )

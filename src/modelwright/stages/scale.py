"""scale: what would a larger model reach? A ladder of small trainings, a law, a forecast put to the test.

Every run is a station (`pretrain`) in a folder of its own, so an interrupted ladder goes on where it was.
The law is fitted to all rungs but the last. What it says of the last is written down before that one is
run; then it is run, and whether its loss fell inside the interval is the verdict.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import write_json, write_text
from modelwright.base.metrics import read_metrics
from modelwright.base.progress import View
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.model.config import ModelConfig
from modelwright.model.flops import SAMPLE, mean_token
from modelwright.model.transformer import Transformer
from modelwright.planning.scaling import HUBER, MIN_VALUES
from modelwright.planning.scaling_intervals import REPLICATES
from modelwright.stages import pretrain
from modelwright.stages.cells import cell
from modelwright.stages.pretrain import Config as PretrainConfig
from modelwright.stages.scale_findings import Findings, Measured, Verdict, conclude
from modelwright.stages.scale_ladder import Budget, Cell, Rung, first_level, plan_cells
from modelwright.stages.scale_page import render, table
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards

INPUTS: tuple[str, ...] = ("tokens",)
PAGE, FIGURES, FORECAST = "scale.html", "scale.json", "forecast.json"
PROBE_STEPS = 24
NEVER = 10**9


class Config(config.Config):
    """Which sizes, at what cost, and how the law is fitted."""

    pretrain: PretrainConfig = PretrainConfig()
    """The recipe's pre-training. Its depth, width and `tokens` are set by the ladder; batch, rates, schedule
    and all else are the recipe's, at every size."""
    rungs: tuple[str, ...] = ("2x64", "3x128", "4x192", "5x256", "6x320")
    """Sizes, layers x width, the smallest first. The last is forecast, and then run."""
    budget: str = "15min"
    """What all runs together may cost: FLOPs ("2e14"), or time on this machine ("15min")."""
    levels: int = Field(default=4, ge=MIN_VALUES)
    """Costs at which each size is trained."""
    factor: float = Field(default=2.0, gt=1)
    """A level's cost over that of the one below it."""
    seeds: int = Field(default=1, ge=1)
    """Runs of each size at each cost. The last rung is run once."""
    count: Literal["total", "non_embedding"] = "total"
    """What N counts. "total" is what Chinchilla counted; without the embedding, small sizes bend the law
    (arXiv 2406.12907)."""
    confidence: float = Field(default=0.9, gt=0, lt=1)
    """Of all intervals."""
    replicates: int = Field(default=REPLICATES, ge=50)
    """Bootstrap replicates."""
    huber: float = Field(default=HUBER, gt=0)
    """Log loss from which a run counts by its distance, no longer by the square of it."""

    @model_validator(mode="after")
    def _rungs_climb(self) -> Self:
        sizes = [Rung.parse(text) for text in self.rungs]
        Budget.parse(self.budget)
        if len(sizes) <= MIN_VALUES or len(set(sizes)) < len(sizes):
            raise ValueError(
                f"rungs: {len(sizes)} sizes were given ({', '.join(self.rungs)}), expected at least "
                f"{MIN_VALUES} to fit, all different, and one to forecast"
            )
        return self


def run(config: Config, run: Run, view: View | None = None) -> Artifact:
    """Train the ladder, fit, forecast, train the last rung, judge; leave the figures and a page."""
    tokens = run.input("tokens")
    rungs = [Rung.parse(text) for text in config.rungs]
    vocabulary = BPETokenizer.load(tokens.file("tokenizer")).vocab_size
    shapes = {rung: rung.choice(config.pretrain.model).derive(vocabulary) for rung in rungs}
    *fitted, following = planned(config, run, shapes, view)
    available = len(TokenShards.open(tokens.file("train")))
    longest = max(cell.tokens for cell in (*fitted, following))
    run.log(
        f"{len(fitted)} runs and the next rung; the longest reads the text {longest / available:.1f} times"
    )
    measured: list[Measured] = []
    with run.progress("ladder", len(fitted)) as bar:
        for each in fitted:
            measured.append(train(config, run, each, shapes[each.rung], view))
            bar.advance()
    findings = conclude(
        measured, available, derive(run.seed, "bootstrap"), config.replicates, config.huber, config.confidence
    )
    size = parameters_of(shapes[following.rung], config.count)
    forecast = findings.bootstrap.forecast(size, following.tokens, config.confidence)
    write_json(
        run.dir / FORECAST, {"rung": following.rung.name, "tokens": following.tokens, **as_row(forecast)}
    )
    run.log(
        f"forecast for {following.rung.name}, {following.tokens:,} tokens: {forecast.value:.4f} nats per"
        f" token, {config.confidence:.0%} interval {forecast.low:.4f} to {forecast.high:.4f}"
    )
    verdict = Verdict(train(config, run, following, shapes[following.rung], view), forecast)
    run.log(verdict.in_words(config.confidence))
    return leave(config, run, findings, verdict)


def leave(config: Config, run: Run, findings: Findings, verdict: Verdict) -> Artifact:
    """Write the figures, the page and the manifest."""
    about = {"count": config.count, "confidence": config.confidence}
    write_json(run.dir / FIGURES, {**about, **findings.as_json(), "verdict": verdict.as_json()})
    write_text(run.dir / PAGE, render(findings, verdict, config.count, config.confidence))
    for line in table(findings, verdict):
        run.log(line)
    law = findings.bootstrap.fit.law
    metrics = {"alpha": law.alpha, "beta": law.beta, "E": law.E, "inside": verdict.inside}
    runs = (*findings.runs, verdict.measured)
    spent = {"tokens": sum(row.tokens for row in runs), "flops": sum(row.flops for row in runs)}
    return run.finish([FIGURES, FORECAST, PAGE], metrics, **spent)


def planned(config: Config, run: Run, shapes: dict[Rung, ModelConfig], view: View | None) -> Sequence[Cell]:
    """The runs that the budget pays for."""
    settings, rungs, budget = config.pretrain, list(shapes), Budget.parse(config.budget)
    sizes = [parameters_of(shape, config.count) for shape in shapes.values()]
    if sizes != sorted(sizes):
        raise UserError(f"rungs must be given the smallest first; their sizes are {sizes}")
    step_tokens = settings.rows * settings.context * settings.accumulation
    rates: dict[Rung, float] = {}
    if budget.in_seconds:
        rates = {rung: probe(config, run, rung, view) for rung in rungs}
        shown = ", ".join(f"{rung.name} {rate / 1e9:.0f}" for rung, rate in rates.items())
        run.log(f"measured GFLOP/s: {shown}")
    first = first_level(budget, rungs, config.levels, config.factor, config.seeds, rates)
    return plan_cells(
        rungs,
        shapes,
        first,
        config.levels,
        config.factor,
        config.seeds,
        mean_context(settings, run),
        step_tokens,
    )


def mean_context(settings: PretrainConfig, run: Run) -> float:
    """Tokens that the mean token may see: documents in a window do not see one another."""
    shards = TokenShards.open(run.input("tokens").file("train"))
    order = settings.order(shards, derive(run.seed, "batches"), SAMPLE * settings.rows)
    return mean_token(order.batches.__getitem__, SAMPLE).context(settings.model.sliding_window)


def probe(config: Config, run: Run, rung: Rung, view: View | None) -> float:
    """FLOP/s of a size on this machine: the median of a few steps. It is a finished cell afterwards, so an
    interrupted ladder is planned the same way when it goes on."""
    step_tokens = config.pretrain.rows * config.pretrain.context * config.pretrain.accumulation
    settings = settings_for(config, rung, PROBE_STEPS * step_tokens, {"validation_tokens": 1})
    made = cell(run, pretrain, "base", settings, f"{rung.name}-probe", run.inputs, view)
    timings = read_metrics(made.path / "timing.jsonl")
    speeds = [line["tokens_per_second"] for line in timings if "tokens_per_second" in line]
    return statistics.median(speeds) * made.manifest.cost.flops / made.manifest.cost.tokens


def train(config: Config, run: Run, planned: Cell, shape: ModelConfig, view: View | None) -> Measured:
    """One run of the ladder, with a seed of its own: runs that shared one would err together."""
    settings = settings_for(config, planned.rung, planned.tokens, {})
    number = derive(0, planned.rung.name, planned.level, planned.repeat)
    made = cell(run, pretrain, "base", settings, planned.name, run.inputs, view, number)
    bits = float(made.metrics["validation_bits_per_byte"])
    return Measured(
        name=planned.name,
        rung=planned.rung.name,
        level=planned.level,
        parameters=parameters_of(shape, config.count),
        tokens=made.manifest.cost.tokens,
        flops=made.manifest.cost.flops,
        flops_per_token=made.manifest.cost.flops / made.manifest.cost.tokens,
        bits_per_byte=bits,
        bytes_per_token=run.input("tokens").metrics["validation_bytes_per_token"],
    )


def settings_for(config: Config, rung: Rung, tokens: int, others: dict[str, Any]) -> PretrainConfig:
    """The recipe's pre-training at another size and length, measured at its end alone."""
    own = {
        "model": rung.choice(config.pretrain.model).model_dump(),
        "tokens": tokens,
        "validate_every": NEVER,
        "keep_checkpoints": 1,
    }
    return PretrainConfig.model_validate({**config.pretrain.model_dump(), **own, **others})


def parameters_of(shape: ModelConfig, count: str) -> int:
    """N of a shape, counted without memory for it."""
    with torch.device("meta"):
        total = Transformer(shape).num_parameters()
    embeddings = shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2)
    return total if count == "total" else total - embeddings


def as_row(interval: Any) -> dict[str, float]:
    """An interval for a file."""
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def check(settings: dict[str, Any]) -> Config:
    """The settings of a ladder, or an error before any work."""
    return config.validate(Config, settings, "the ladder")


def scale(folder: Path, tokens: Path, chosen: Config, seed: int, view: View | None = None) -> Artifact:
    """The ladder over the shards of a `tokenize` in `folder`: what the command line calls."""
    work = Run(folder, "scale", "scale", chosen, seed, {"tokens": Artifact.load(tokens)}, view)
    try:
        return run(chosen, work, view)
    finally:
        work.close()

"""averaging_study: what does averaging weights buy, and is it bought as well by lowering the learning rate?

For each schedule, length of run and seed a model is trained (`pretrain`), and all averages of it are
measured (`average`): these stages do the work, this one only compares. Runs of one seed begin with the same
weights and read the same text, so they are compared seed by seed. Each cell is a folder with a manifest, so
an interrupted study goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.files import write_json, write_text
from modelwright.base.progress import View
from modelwright.base.run import Run
from modelwright.stages import average, pretrain
from modelwright.stages.average import Config as AverageConfig
from modelwright.stages.averaging_findings import Findings, Measured
from modelwright.stages.averaging_page import render, table
from modelwright.stages.cells import cell
from modelwright.stages.pretrain import Config as PretrainConfig
from modelwright.training.averages import AveragesConfig
from modelwright.training.schedule import ScheduleConfig

INPUTS: tuple[str, ...] = ("tokens",)
PAGE, FIGURES = "averaging.html", "averaging.json"
NEVER = 10**9
ALL = AveragesConfig(
    half_lives=(0.01, 0.03, 0.1, 0.3), tails=(0.1, 0.3), powers=(0.05, 0.1), snapshots=8, every=1
)


class Config(config.Config):
    """Which trainings are compared."""

    pretrain: PretrainConfig = PretrainConfig()
    """The recipe's pre-training; its schedule, its tokens and what it keeps are set by the study."""
    schedules: dict[str, ScheduleConfig] = {
        kind: ScheduleConfig(kind=kind) for kind in ("wsd", "cosine", "linear", "constant")
    }
    """Name -> schedule."""
    reference: str = "wsd"
    """The schedule whose last weights all others are compared with."""
    horizons: tuple[int, ...] = Field(default=(100_000, 400_000), min_length=1)
    """Tokens in a run."""
    seeds: int = Field(default=5, ge=2)
    """Runs of each kind."""
    averages: AveragesConfig = ALL
    """Those kept in each run."""
    checkpoints: int = Field(default=5, ge=2)
    """Last checkpoints that are averaged uniformly; one is taken at each twentieth of a run."""
    validation_tokens: int = Field(default=20_000, gt=0)
    """Held-out tokens on which each average is measured."""
    soup: bool = False
    """Also a greedy soup in each run: twice the measuring."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of all intervals, over seeds."""

    @model_validator(mode="after")
    def _reference_is_there(self) -> Self:
        if self.reference not in self.schedules:
            raise ValueError(f"reference: '{self.reference}' is none of {', '.join(self.schedules)}")
        return self


def run(config: Config, run: Run, view: View | None = None) -> Artifact:
    """Train and measure every cell, compare; leave the figures and a page."""
    cells = [
        (seed, tokens, name)
        for seed in range(config.seeds)
        for tokens in config.horizons
        for name in config.schedules
    ]
    found: list[Measured] = []
    spent: dict[str, float] = {"tokens": 0, "flops": 0.0}
    with run.progress("cells", len(cells)) as bar:
        for seed, tokens, name in cells:
            trained = train(config, run, name, tokens, seed, view)
            found += measure(config, run, trained, name, tokens, seed, view)
            spent["tokens"] += trained.manifest.cost.tokens
            spent["flops"] += trained.manifest.cost.flops
            bar.advance()
    findings = Findings(tuple(found), config.reference, config.confidence)
    write_json(run.dir / FIGURES, findings.as_json())
    write_text(run.dir / PAGE, render(findings))
    for line in (*table(findings), "", *findings.sentences()):
        run.log(line)
    return run.finish([FIGURES, PAGE], {}, tokens=int(spent["tokens"]), flops=spent["flops"])


def train(config: Config, run: Run, name: str, tokens: int, seed: int, view: View | None) -> Artifact:
    """One run, with the seed that its counterparts under the other schedules have."""
    step_tokens = config.pretrain.rows * config.pretrain.context * config.pretrain.accumulation
    own: dict[str, Any] = {
        "schedule": config.schedules[name].model_dump(),
        "tokens": tokens,
        "averages": config.averages.model_dump(),
        "validate_every": NEVER,
        "checkpoint_every": max(1, tokens // step_tokens // 20),
        "keep_checkpoints": config.checkpoints,
    }
    settings = PretrainConfig.model_validate({**config.pretrain.model_dump(), **own})
    return cell(run, pretrain, "base", settings, f"{name}-{tokens}-{seed}", run.inputs, view, seed + 1)


def measure(
    config: Config, run: Run, trained: Artifact, name: str, tokens: int, seed: int, view: View | None
) -> list[Measured]:
    """Every average of one run on held-out text."""
    settings = AverageConfig(
        last=config.checkpoints, soup=config.soup, validation_tokens=config.validation_tokens
    )
    inputs = {"tokens": run.input("tokens"), "model": trained}
    made = cell(run, average, "averaged", settings, f"{name}-{tokens}-{seed}", inputs, view, seed + 1)
    rows: list[Mapping[str, Any]] = json.loads(made.file("candidates.json").read_text("utf-8"))["candidates"]
    return [
        Measured(name, row["candidate"], tokens, seed, float(row["validation_bits_per_byte"])) for row in rows
    ]


def check(settings: dict[str, Any]) -> Config:
    """The settings of a study, or an error before any work."""
    return config.validate(Config, settings, "the settings of the study")


def study(folder: Path, tokens: Path, chosen: Config, seed: int, view: View | None = None) -> Artifact:
    """The study over the shards of a `tokenize` in `folder`: what the command line calls."""
    work = Run(folder, "averaging_study", "study", chosen, seed, {"tokens": Artifact.load(tokens)}, view)
    try:
        return run(chosen, work, view)
    finally:
        work.close()

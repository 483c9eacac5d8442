"""align: preference pairs -> a model that answers as people prefer (DPO)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.metrics import counted
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.data.sources import mark, stated
from modelwright.formats.huggingface import load_model
from modelwright.model.flops import mean_token
from modelwright.model.sharding import tensor_plan
from modelwright.stages.training import (
    beginning,
    check_compute,
    check_steps,
    keep_model,
    spread_model,
    train_model,
)
from modelwright.stages.views import DROPPED, PairView, left_out
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.loop import LoopConfig

INPUTS: tuple[str, ...] = ("model",)
TOGETHER = True
"""All processes run this stage, where there are several."""


class Config(LoopConfig, PairView):
    """Which pairs, and how far the policy may move from where it starts."""

    compute: ComputeConfig = ComputeConfig()
    """Device, number format, compilation."""


def check(config: Config) -> None:
    """Raises ConfigError where the settings ask for steps that cannot be."""
    check_steps(config)


def check_line(config: Config, stations: Mapping[str, Any]) -> None:
    """Raises ConfigError where what the stations before it make cannot be cut."""
    if shape := beginning(stations):
        tensor_plan(shape, config.compute.tensor_parallel)


def check_here(config: Config) -> None:
    """Raises UserError where this machine and its processes cannot train so."""
    check_compute(config.compute)


def sources(config: Config) -> str:
    """A mark of what the sources hold now: when it changes, the stage runs anew."""
    return mark(config.sources)


def facts(config: Config) -> Provenance:
    """What the sources state, for the policy: known before any work."""
    return stated(config.sources)


def run(config: Config, run: Run) -> Artifact:
    """Train on pairs against the frozen start; leave a Hugging Face folder and the last checkpoints.

    The start is its own reference: its log-probabilities are taken once, before the first update
    and before a checkpoint is loaded, and nothing moves them afterwards.
    """
    parent = run.input("model").file("model")
    tokenizer = BPETokenizer.load(parent)
    device = resolve(config.compute)
    model = load_model(parent)
    model.compute_dtype = device.dtype
    spread = spread_model(model, config.compute, device, run)
    batches = config.pair_up("train", spread, tokenizer, run, run.seed)
    validate = config.measure(spread, tokenizer, run, run.seed)
    plan = config.plan(len(batches))
    mean = mean_token(batches.__getitem__, len(batches))
    per_token, tokens = mean.training_flops(model.config), mean.positions * len(batches)
    # Of the reference, which reads each pair once: a forward pass.
    reference = mean.forward_flops(model.config) * tokens / config.epochs
    run.log(f"{counted(plan.steps, 'step')} of up to {counted(config.rows * config.accumulation, 'pair')}")
    run.log(mean.describe(per_token))
    trained = train_model(
        run,
        config,
        config.compute,
        device,
        spread,
        model,
        config.loss(),
        batches,
        plan,
        validate=validate,
        flops=per_token * tokens,
        flops_per_token=per_token,
    )
    keep_model(run, spread, model, parent)
    metrics = {"steps": trained.steps, "view_sha256": batches.digest(), **trained.metrics, **left_out(run)}
    made = [name for name in ("model", "metrics.jsonl", DROPPED) if (run.dir / name).exists()]
    spent = per_token * trained.tokens + reference
    return run.finish(made, metrics, tokens=trained.tokens, flops=spent)

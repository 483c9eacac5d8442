"""pretrain: token shards -> a base model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError
from modelwright.base.metrics import counted
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.data.mix import check_names
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.flops import mean_token
from modelwright.model.init import first_weights
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.stages.text_view import TextView
from modelwright.stages.training import (
    beginning,
    check_compute,
    check_steps,
    keep_model,
    spread_model,
    train_model,
)
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.training import dial
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.loop import LoopConfig
from modelwright.training.step_plan import StepPlan

INPUTS: tuple[str, ...] = ("tokens",)
TOGETHER = True
"""All processes run this stage, where there are several."""
TOKENS_PER_PARAMETER = 20
"""The compute-optimal ratio of Chinchilla (arXiv 2203.15556): the horizon that a depth implies."""


class Config(LoopConfig, TextView):
    """What is learned, for how long, in which pieces."""

    model: ModelChoice = ModelChoice()
    """The dial. In a recipe it is the section `model`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, repeats included. None: 20 per parameter that a token meets."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of what keeps logits from drifting away (arXiv 2204.02311 takes 1e-4); 0: none."""
    compute: ComputeConfig = ComputeConfig()
    """Device, number format, compilation."""

    def plan_for(self, tokens: int) -> StepPlan:
        """The steps that read a number of tokens, in whole batches; at least one."""
        step_tokens = self.rows * self.context * self.accumulation
        return self.plan(max(1, tokens // step_tokens) * self.accumulation)


def check(config: Config) -> None:
    """Raises ConfigError where the settings ask for steps that cannot be, or for longer rows than the model
    will say that it reads."""
    check_steps(config)
    longest = config.model.max_position_embeddings
    if config.context > longest:
        raise ConfigError(
            f"pretrain.context is {config.context} and model.max_position_embeddings {longest}: the model"
            " would learn from longer rows than its config.json allows it to read. Raise the second, or lower"
            " the first"
        )


def check_line(config: Config, stations: Mapping[str, Any]) -> None:
    """Raises ConfigError where the sizes describe no network or one that cannot be cut, or where the mix does
    not fit the sources that are prepared before."""
    shape = beginning({**stations, "pretrain": config})
    assert shape is not None, "the settings of pretrain say what it makes"
    tensor_plan(shape, config.compute.tensor_parallel)
    if config.mix and "prepare" in stations:
        check_names(config.mix, [source.name for source in stations["prepare"].sources])


def check_here(config: Config) -> None:
    """Raises UserError where this machine and its processes cannot train so."""
    check_compute(config.compute)


def run(config: Config, run: Run) -> Artifact:
    """Train from random weights; leave a Hugging Face folder and the last checkpoints."""
    source = run.input("tokens")
    tokenizer = BPETokenizer.load(source.file("tokenizer"))
    device = resolve(config.compute)
    shape = config.model.derive(tokenizer.vocab_size)
    with torch.device("meta"):
        model = Transformer(shape, device.dtype, config.model.balance)
    spread = spread_model(model, config.compute, device, run)
    spread.fill(first_weights(model, derive(run.seed, "init")))
    tokens = config.tokens or TOKENS_PER_PARAMETER * model.num_active_parameters()
    plan = config.plan_for(tokens)
    read = plan.micro_batches * config.rows * config.context
    run.log(describe(shape, model))
    optimizer = dial.settle(config.optimizer, shape.hidden_size)
    run.log(dial.describe(config.optimizer, optimizer, shape.hidden_size))
    shards, order = TokenShards.open(source.file("train")), derive(run.seed, "batches")
    rows = plan.micro_batches * config.rows
    reading = config.order(shards, order, rows)
    for line in reading.describe(rows):
        run.log(line)
    mean = mean_token(reading.batches.__getitem__, plan.micro_batches)
    per_token = mean.training_flops(shape)
    run.log(f"{counted(plan.steps, 'step')}, {read:,} tokens, {per_token * read:.3g} FLOPs")
    run.log(mean.describe(per_token))
    validate = config.measure(model, TokenShards.open(source.file("validation")), tokenizer, spread)
    trained = train_model(
        run,
        config.model_copy(update={"optimizer": optimizer}),
        config.compute,
        device,
        spread,
        model,
        NextToken(config.z_loss),
        reading.batches,
        plan,
        validate=validate,
        flops=per_token * read,
        flops_per_token=per_token,
    )
    for line in model.describe_experts():
        run.log(line)
    keep_model(run, spread, model, source.file("tokenizer"))
    metrics = {"parameters": model.num_parameters(), "steps": trained.steps, **trained.metrics}
    metrics["read"] = [
        {"group": g.name, "tokens": g.tokens, "share": g.rows / rows, "epochs": g.epochs}
        for g in reading.groups
    ]
    flops = per_token * trained.tokens
    return run.finish(["model", "metrics.jsonl"], metrics, tokens=trained.tokens, flops=flops)


def describe(shape: ModelConfig, model: Transformer) -> str:
    """What the dial came to."""
    parameters, active = model.num_parameters(), model.num_active_parameters()
    experts = (
        f", {shape.num_experts} experts of {shape.moe_intermediate_size} in {len(shape.mixture_layers)} "
        f"layers, {shape.num_experts_per_tok} for a token: {active / 1e6:.2f}M parameters active"
    )
    return (
        f"{shape.architecture}, {counted(shape.num_hidden_layers, 'layer')} x {shape.hidden_size}, "
        f"{shape.num_attention_heads}/{shape.num_key_value_heads} heads of {shape.head_dim}, feed-forward "
        f"{shape.intermediate_size}, vocabulary {shape.vocab_size}: {parameters / 1e6:.2f}M parameters"
        f"{experts if shape.num_experts else ''}"
    )

"""pretrain: token shards -> a base model."""

from __future__ import annotations

from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.files import atomic_directory
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.formats.huggingface import save_model
from modelwright.kernels import native
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.flops import training_flops_per_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.stages.text_view import TextView
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.compute import ComputeConfig, compile_blocks, resolve
from modelwright.training.loop import LoopConfig, train
from modelwright.training.step_plan import StepPlan

INPUTS: tuple[str, ...] = ("tokens",)
TOKENS_PER_PARAMETER = 20
"""The compute-optimal ratio of Chinchilla (arXiv 2203.15556): the horizon that a depth implies."""


class Config(LoopConfig, TextView):
    """What is learned, for how long, in which pieces."""

    model: ModelChoice = ModelChoice()
    """The dial. In a recipe it is the section `model`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, repeats included. None: 20 per parameter."""
    compute: ComputeConfig = ComputeConfig()
    """Device, number format, compilation."""

    def plan_for(self, tokens: int) -> StepPlan:
        """The steps that read a number of tokens, in whole batches; at least one."""
        step_tokens = self.rows * self.context * self.accumulation
        return self.plan(max(1, tokens // step_tokens) * self.accumulation)


def run(config: Config, run: Run) -> Artifact:
    """Train from random weights; leave a Hugging Face folder and the last checkpoints."""
    source = run.input("tokens")
    tokenizer = BPETokenizer.load(source.file("tokenizer"))
    device = resolve(config.compute)
    shape = config.model.derive(tokenizer.vocab_size)
    model = Transformer(shape, device.dtype)
    initialize(model, derive(run.seed, "init"))
    model.to(device.name)
    tokens = config.tokens or TOKENS_PER_PARAMETER * model.num_parameters()
    plan = config.plan_for(tokens)
    read = plan.micro_batches * config.rows * config.context
    flops = training_flops_per_token(shape, config.context) * read
    run.log(describe(shape, model.num_parameters()))
    run.log(f"{plan.steps:,} steps, {read:,} tokens, {flops / 1e12:,.0f} TFLOPs")
    shards, order = TokenShards.open(source.file("train")), derive(run.seed, "batches")
    rows = plan.micro_batches * config.rows
    reading = config.order(shards, order, rows)
    for line in reading.describe(rows):
        run.log(line)
    run.computes_with("row kernels", native.describe(device.name, device.dtype))
    compile_blocks(model.model.layers, config.compute, device, flops, run.log)
    validate = config.measure(model, TokenShards.open(source.file("validation")), tokenizer)
    trained = train(
        model, NextToken(), reading.batches, plan, config, run, validate=validate, matmul_dtype=device.dtype
    )
    with atomic_directory(run.dir / "model") as folder:
        save_model(folder, model, source.file("tokenizer"))
    metrics = {"parameters": model.num_parameters(), "steps": plan.steps, **trained.metrics}
    metrics["read"] = [
        {"group": g.name, "tokens": g.tokens, "share": g.rows / rows, "epochs": g.epochs}
        for g in reading.groups
    ]
    return run.finish(["model", "metrics.jsonl"], metrics, tokens=trained.tokens, flops=flops)


def describe(shape: ModelConfig, parameters: int) -> str:
    """What the dial came to."""
    return (
        f"{shape.architecture}, {shape.num_hidden_layers} layers x {shape.hidden_size}, "
        f"{shape.num_attention_heads}/{shape.num_key_value_heads} heads of {shape.head_dim}, feed-forward "
        f"{shape.intermediate_size}, vocabulary {shape.vocab_size}: {parameters / 1e6:.2f}M parameters"
    )

"""pretrain: token shards -> a base model."""

from __future__ import annotations

from itertools import pairwise

from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.files import atomic_directory
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.evaluation.likelihood import bits_per_byte
from modelwright.formats.huggingface import save_model
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.flops import training_flops_per_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.batches import Windows
from modelwright.training.compute import ComputeConfig, compile_blocks, resolve
from modelwright.training.loop import LoopConfig, Validate, train

INPUTS = ("tokens",)
TOKENS_PER_PARAMETER = 20
"""The compute-optimal ratio of Chinchilla (arXiv 2203.15556): the horizon that a depth implies."""


class Config(LoopConfig):
    """What is learned, for how long, in which pieces."""

    model: ModelChoice = ModelChoice()
    """The dial. In a recipe it is the section `model`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, repeats included. None: 20 per parameter."""
    context: int = Field(default=256, gt=1)
    """Tokens in a window (T)."""
    rows: int = Field(default=16, gt=0)
    """Windows in a micro-batch (B)."""
    validation_tokens: int = Field(default=50_000, gt=0)
    """Held-out tokens that each measurement reads."""
    compute: ComputeConfig = ComputeConfig()


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
    step_tokens = config.rows * config.context * config.accumulation
    steps = max(1, tokens // step_tokens)
    flops = training_flops_per_token(shape, config.context) * steps * step_tokens
    run.log(describe(shape, model.num_parameters(), steps, step_tokens, flops))
    batches = Windows(
        TokenShards.open(source.file("train")),
        config.rows,
        config.context,
        derive(run.seed, "batches"),
        tokenizer.end_of_text_id,
    )
    compile_blocks(model.model.layers, config.compute, device, flops, run.log)
    validate = make_validate(model, TokenShards.open(source.file("validation")), tokenizer, config)
    trained = train(
        model, NextToken(), batches, steps, config, run, validate=validate, matmul_dtype=device.dtype
    )
    with atomic_directory(run.dir / "model") as folder:
        save_model(folder, model, source.file("tokenizer"))
    metrics = {"parameters": model.num_parameters(), "steps": steps, **trained.metrics}
    return run.finish(["model", "metrics.jsonl"], metrics, tokens=trained.tokens, flops=flops)


def make_validate(
    model: Transformer, shards: TokenShards, tokenizer: BPETokenizer, config: Config
) -> Validate:
    """Bits per byte on held-out documents, each read alone."""
    ends = shards.boundaries
    lengths = tokenizer.byte_lengths
    device = str(next(model.parameters()).device)

    def validate() -> dict[str, float]:
        documents = (shards.read(int(start), int(end - start)).tolist() for start, end in pairwise(ends))
        found = bits_per_byte(
            model,
            documents,
            lengths,
            max_tokens=config.validation_tokens,
            window=config.context,
            device=device,
        )
        return {"validation_bits_per_byte": found.value}

    return validate


def describe(shape: ModelConfig, parameters: int, steps: int, step_tokens: int, flops: float) -> str:
    """What the dial came to."""
    return (
        f"{shape.architecture}, {shape.num_hidden_layers} layers x {shape.hidden_size}, "
        f"{shape.num_attention_heads}/{shape.num_key_value_heads} heads of {shape.head_dim}, feed-forward "
        f"{shape.intermediate_size}, vocabulary {shape.vocab_size}: {parameters / 1e6:.2f}M parameters; "
        f"{steps:,} steps of {step_tokens:,} tokens, {steps * step_tokens / 1e6:.1f}M tokens, "
        f"{flops / 1e12:,.0f} TFLOPs"
    )

"""finetune: conversations -> a model that answers (supervised fine-tuning of all weights)."""

from __future__ import annotations

from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.data.sources import mark, stated
from modelwright.formats.huggingface import load_model
from modelwright.model.flops import training_flops_per_token
from modelwright.objectives.next_token import NextToken
from modelwright.stages.training import keep_model, spread_model, train_model
from modelwright.stages.views import ConversationView
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.loop import LoopConfig

INPUTS: tuple[str, ...] = ("model",)
TOGETHER = True
"""All processes run this stage, where there are several."""


class Config(LoopConfig, ConversationView):
    """Which conversations, how often, in which pieces."""

    z_loss: float = Field(default=0.0, ge=0)
    """Weight of what keeps logits from drifting away (arXiv 2204.02311 takes 1e-4); 0: none."""
    compute: ComputeConfig = ComputeConfig()
    """Device, number format, compilation."""


def sources(config: Config) -> str:
    """A mark of what the sources hold now: when it changes, the stage runs anew."""
    return mark(config.sources)


def facts(config: Config) -> Provenance:
    """What the sources state, for the policy: known before any work."""
    return stated(config.sources)


def run(config: Config, run: Run) -> Artifact:
    """Train on the assistant's turns; leave a Hugging Face folder and the last checkpoints."""
    parent = run.input("model").file("model")
    tokenizer = BPETokenizer.load(parent)
    device = resolve(config.compute)
    model = load_model(parent)
    model.compute_dtype = device.dtype
    spread = spread_model(model, config.compute, device, run)
    batches = config.pack("train", tokenizer, run, run.seed)
    validate = config.measure(spread, tokenizer, run, run.seed)
    plan = config.plan(len(batches))
    tokens = len(batches) * config.rows * config.context
    per_token = training_flops_per_token(model.config, config.context)
    flops = per_token * tokens
    run.log(f"{plan.steps:,} steps, {tokens:,} tokens")
    trained = train_model(
        run,
        config,
        config.compute,
        device,
        spread,
        model,
        NextToken(config.z_loss),
        batches,
        plan,
        validate=validate,
        flops=flops,
        flops_per_token=per_token,
    )
    keep_model(run, spread, model, parent)
    metrics = {"steps": plan.steps, **trained.metrics}
    return run.finish(["model", "metrics.jsonl"], metrics, tokens=trained.tokens, flops=flops)

"""compress: weights of 8 or 4 bits, and an honest account of the damage.

Leaves `model/` (a Hugging Face folder in the layout of compressed-tensors) and `damage.json`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config as BaseConfig
from modelwright.base.errors import UserError
from modelwright.base.files import atomic_directory, write_json
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.compression.quantize import quantize
from modelwright.data.atlas.conversations import conversations
from modelwright.evaluation.compare import Comparison, Damage
from modelwright.formats.huggingface import WEIGHTS, load_model, save_model
from modelwright.model.quantized import GROUP, Scheme
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.shards import TokenShards

INPUTS: tuple[str, ...] = ("model",)
OPTIONAL: tuple[str, ...] = ("tokens",)
"""Used where there are any: their held-out text is what the damage is measured on. Where a model was imported
there are none; then it is the embedded corpus."""


class Config(BaseConfig):
    """How it is compressed, and on how much text the damage is measured."""

    bits: Literal[4, 8] = 8
    """Of each weight in the blocks. 8: hardly any damage. 4: half the size again, and damage to look at."""
    group: int = Field(default=GROUP, gt=0, multiple_of=GROUP)
    """Neighbouring inputs that share a scale, with 4 bits. More of them: smaller, and less exact."""
    kept_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Format of what is not quantized: embedding, head, norms, biases."""
    sequences: int = Field(default=64, gt=1)
    """Validation sequences to compare on, fewer if there are fewer; intervals are over sequences."""
    sequence_length: int = Field(default=256, gt=1)
    """Tokens of each, at most the model's context."""
    top1_target: float = Field(default=0.99, ge=0, le=1)
    """Share of tokens on which both models should find the same token most likely. Missing it is said in
    the log and in damage.json; it does not stop the stage."""


def run(config: Config, run: Run) -> Artifact:
    """Quantize, save, load what was saved, and compare that with the original."""
    source = run.input("model").file("model")
    original = load_model(source).eval()
    made = quantize(original, Scheme(config.bits, config.group), getattr(torch, config.kept_dtype))
    with atomic_directory(run.dir / "model") as folder:
        save_model(folder, made, source)
    del made
    saved = load_model(run.dir / "model").eval()  # what is judged is the file, not the object in memory
    damage = _compare(config, run, original, saved)
    sizes = _sizes(source, run.dir / "model", original)
    top1_met = damage.top1.mean >= config.top1_target
    report = {**sizes, **asdict(damage), "top1_target": config.top1_target, "top1_target_met": top1_met}
    write_json(run.dir / "damage.json", report)
    _tell(config, run, damage, sizes)
    return run.finish(
        files=["model", "damage.json"],
        metrics={
            **sizes,
            "mean_kl": damage.mean_kl.mean,
            "kl_99": damage.kl_99.mean,
            "top1": damage.top1.mean,
            "top1_target_met": top1_met,
            "bits_per_byte_before": damage.bits_per_byte_before,
            "bits_per_byte_after": damage.bits_per_byte_after,
        },
    )


@torch.inference_mode()
def _compare(config: Config, run: Run, original: Transformer, changed: Transformer) -> Damage:
    if "tokens" in run.inputs:
        batches = _from_shards(config, run.input("tokens"), original)
    else:
        batches = _from_conversations(config, run.input("model"), original)
    comparison = Comparison()
    with run.progress("measuring the damage", len(batches)) as progress:
        for batch, sizes in batches:
            before, after = (model.on_batch(batch).logits()[0] for model in (original, changed))
            comparison.add(before, after, batch.targets[0], sizes)
            progress.advance()
    return comparison.result()


Measured = list[tuple[Batch, torch.Tensor]]
"""Sequences (1, T), each with the bytes (T,) that its targets stand for."""


def _from_shards(config: Config, tokens: Artifact, model: Transformer) -> Measured:
    """Held-out text, spread evenly over the shards."""
    tokenizer = BPETokenizer.load(tokens.file("tokenizer"))
    lengths = torch.tensor(tokenizer.byte_lengths)
    shards = TokenShards.open(tokens.file("validation"))
    # Intervals are over sequences: of a short text at least two are made.
    length = min(config.sequence_length, model.config.max_position_embeddings, (len(shards) - 1) // 2)
    if length < 1:
        raise UserError(
            f"{shards.folder} holds {len(shards)} tokens, too few to measure on: prepare more text."
        )
    count = min(config.sequences, (len(shards) - 1) // length)
    found: Measured = []
    for batch in _sequences(shards, length, count, tokenizer.end_of_text_id):
        # A document's first token has nothing before it: it counts in no bits per byte.
        starts = batch.ids[0] == tokenizer.end_of_text_id
        found.append((batch, lengths[batch.targets[0]].where(~starts, 0)))
    return found


def _from_conversations(config: Config, model: Artifact, network: Transformer) -> Measured:
    """Held-out conversations of the embedded corpus, where a run has no text of its own: in the template of
    a model that was tuned, and as plain text for one that was not."""
    tokenizer = BPETokenizer.load(model.file("model"))
    lengths = torch.tensor(tokenizer.byte_lengths)
    tuned = any(made.stage in ("finetune", "align") for made in model.ancestry())
    limit = min(config.sequence_length, network.config.max_position_embeddings) + 1
    found: Measured = []
    for each in conversations(config.sequences, config.sequences, "validation"):
        text = "\n".join(message.content for message in each.messages)
        ids = torch.tensor([(render(tokenizer, each).ids if tuned else tokenizer.encode(text))[:limit]])
        found.append((Batch(ids=ids[:, :-1], targets=ids[:, 1:]), lengths[ids[0, 1:]]))
    return found


def _sequences(shards: TokenShards, length: int, count: int, end_of_text: int) -> Iterator[Batch]:
    """`count` sequences (1, T) spread evenly over the shards; documents do not see each other."""
    available = (len(shards) - 1) // length
    for number in range(count):
        window = torch.from_numpy(shards.read(available * number // count * length, length + 1))[None]
        ids = window[:, :-1]
        ends = (ids == end_of_text).long()
        yield Batch(ids=ids, targets=window[:, 1:], segments=ends.cumsum(1) - ends)


def _sizes(before: Path, after: Path, original: Transformer) -> dict[str, Any]:
    parameters = original.num_parameters()
    sizes = {"before": _weights_size(before), "after": _weights_size(after)}
    return {
        "parameters": parameters,
        **{f"bytes_{when}": size for when, size in sizes.items()},
        **{f"bits_per_weight_{when}": 8 * size / parameters for when, size in sizes.items()},
    }


def _weights_size(folder: Path) -> int:
    stem = WEIGHTS.removesuffix(".safetensors")
    return sum(file.stat().st_size for file in folder.glob(f"{stem}*.safetensors"))


def _tell(config: Config, run: Run, damage: Damage, sizes: dict[str, Any]) -> None:
    run.log(
        f"{sizes['bytes_before']:,} -> {sizes['bytes_after']:,} bytes,"
        f" {sizes['bits_per_weight_after']:.2f} bits a weight"
    )
    run.log(
        f"top-1 agreement {damage.top1.mean:.2%} [{damage.top1.low:.2%}, {damage.top1.high:.2%}],"
        f" mean KL {damage.mean_kl.mean:.2e} nats, 99 % of tokens below {damage.kl_99.mean:.2e},"
        f" bits per byte {damage.bits_per_byte_before:.4f} -> {damage.bits_per_byte_after:.4f}"
    )
    if damage.top1.mean < config.top1_target:
        run.log(
            f"warning: top-1 agreement is below the target of {config.top1_target:.1%}: compare the answers"
            " of both models before this one is used, or keep more precision (bits: 8, a smaller group,"
            " kept_dtype: float32)."
        )

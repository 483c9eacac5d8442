"""What benchmarks/train_gpu.py measures: networks, how steps are cut, and random text to fill them with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from modelwright.base.device import missing_for_gpu
from modelwright.base.schema import Batch
from modelwright.model.config import ModelConfig
from modelwright.training.batches import Example, Packed


@dataclass(frozen=True, slots=True)
class Case:
    """A network, its data, and how it is cut into steps."""

    name: str
    shape: ModelConfig
    context: int
    rows: int
    accumulation: int
    documents: bool = False
    """Packed conversations, half of their tokens supervised; else windows without an end of text."""
    bar: float | None = None
    """MFU that is asked for on an H200."""
    bar_speed: float | None = None
    """Tokens a second that are asked for there."""
    fp8: bool = False
    """Linear layers in 8 bits; MFU stays that against bf16's peak."""
    checkpointing: Literal["none", "full", "selective"] = "none"

    @property
    def step_tokens(self) -> int:
        """Tokens of one update, padding included."""
        return self.rows * self.context * self.accumulation


def shape(layers: int, width: int, heads: int, kv_heads: int, inner: int, vocabulary: int) -> ModelConfig:
    """A Llama-like network, as GPT-2's and the 1B model's sizes are run."""
    return ModelConfig(
        architecture="llama",
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=width // heads,
    )


ONE_BILLION = shape(20, 2048, 16, 8, 5632, 32_000)
QWEN3 = shape(28, 1024, 16, 8, 3072, 151_936).model_copy(update={"architecture": "qwen3", "head_dim": 128})
CASES = {
    case.name: case
    for case in (
        Case("GPT-2 small", shape(12, 768, 12, 12, 2048, 50_304), 1024, 32, 16, bar=0.48, bar_speed=600e3),
        Case("1B", ONE_BILLION, 2048, 8, 4, bar=0.50),
        Case("SFT 0.6B, 16k", QWEN3, 16_384, 1, 4, documents=True, bar=0.45),
        Case("SFT 0.6B, 8k", QWEN3, 8192, 2, 4, documents=True),
        Case("1B, fp8", ONE_BILLION, 2048, 8, 4, fp8=True),
    )
}
PEER = "nanoGPT-style"
CHECK = "check"
SMALL = Case(CHECK, shape(2, 128, 4, 2, 256, 512), 256, 2, 2, documents=True)


def tiny(case: Case) -> Case:
    """The same kind of case, small enough for a CPU in a test."""
    small = shape(2, 64, 2, 1, 128, 128).model_copy(update={"architecture": case.shape.architecture})
    return replace(case, shape=small, context=128, rows=2, accumulation=2)


def ways(case: Case, *, again: bool = True) -> Iterator[Case]:
    """The case, and the same steps in less and less memory: fewer rows, and where layers may be computed
    `again`, activation checkpointing."""
    yield case
    rows, accumulation = case.rows, case.accumulation
    while rows % 2 == 0:
        rows, accumulation = rows // 2, accumulation * 2
        yield replace(case, rows=rows, accumulation=accumulation)
    for kind in ("selective", "full") if again else ():
        yield replace(case, rows=rows, accumulation=accumulation, checkpointing=kind)


def published_as(benchmark: str) -> str:
    """The name of a result here. Without a compiler all runs eagerly, attention within documents too: such
    figures get a name of their own, and it is said."""
    missing = missing_for_gpu()
    if not missing:
        return benchmark
    line = "!" * 100
    print(f"{line}\nnothing is compiled here, missing: {missing}.", file=sys.stderr)
    print(f"The figures are of eager runs and are published as {benchmark}_eager.\n{line}", file=sys.stderr)
    return f"{benchmark}_eager"


class RandomWindows:
    """Rows of random ids, one document each: attention is plainly causal."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def __getitem__(self, index: int) -> Batch:
        size = (self._case.rows, self._case.context + 1)
        ids = torch.from_numpy(np.random.default_rng(index).integers(0, self._case.shape.vocab_size, size))
        return Batch(ids=ids[:, :-1].contiguous(), targets=ids[:, 1:].contiguous())


class Conversations:
    """Random conversations of 200 to 2,000 tokens (less in short rows), packed as fine-tuning packs them."""

    def __init__(self, case: Case, micro_batches: int) -> None:
        random = np.random.default_rng(0)
        longest = min(2000, case.context // 2)
        needed = int(1.1 * micro_batches * case.rows * case.context) + 20 * case.context
        examples: list[Example] = []
        while needed > 0:
            length = int(random.integers(longest // 10, longest + 1))
            ids = random.integers(0, case.shape.vocab_size, length).tolist()
            examples.append(Example(ids, [place > length // 2 for place in range(length)]))
            needed -= length
        self._packed = Packed(examples, case.rows, case.context, seed=0, padding=0)

    def __getitem__(self, index: int) -> Batch:
        return self._packed[index % (len(self._packed) - 1)]


def batches_of(case: Case, steps: int) -> RandomWindows | Conversations:
    """The case's data for so many steps."""
    return Conversations(case, steps * case.accumulation) if case.documents else RandomWindows(case)


def documents_of(batch: Batch) -> Tensor:
    """(B, T) numbers of documents."""
    assert batch.segments is not None, "packed rows know their documents"
    return batch.segments


class Ended(Exception):
    """The steps that were to be timed are over."""


class UpTo:
    """So many micro-batches: who asks for more, is at the end, before a training saves all it has."""

    def __init__(self, batches: RandomWindows | Conversations, count: int) -> None:
        self._batches, self._count = batches, count

    def __getitem__(self, index: int) -> Batch:
        if index >= self._count:
            raise Ended
        return self._batches[index]

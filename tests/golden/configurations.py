"""Five small trainings on a text that does not change, whose losses are committed (losses.json).

Together they take the main paths: both optimizers, windows and packed rows, masks, mixtures, preferences,
averages, ramps and schedules. The text is this project's licence, byte by byte, so that neither a corpus nor
a tokenizer has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelwright.base.metrics import read_metrics
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.base.seams import Objective
from modelwright.model.balance import BalanceConfig
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import DirectPreference, sequence_logps
from modelwright.training.averages import AveragesConfig
from modelwright.training.batches import Batches, Example, FiniteBatches, Packed, Pairs, Windows
from modelwright.training.loop import LoopConfig, mean_loss, train
from modelwright.training.optimizer import OptimizerConfig
from modelwright.training.schedule import ScheduleConfig
from modelwright.training.step_plan import BatchRampConfig

TEXT = Path(__file__).parents[2] / "LICENSE"
END = 0
STEPS = 24
ROWS, CONTEXT = 4, 64
Losses = dict[str, list[float]]
"""What is compared -> its values."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the loop is given."""

    model: Transformer
    objective: Objective
    batches: Batches
    held_out: FiniteBatches


@dataclass(frozen=True, slots=True)
class Configuration:
    """One training."""

    config: LoopConfig
    make: Callable[[], Parts]

    def losses(self, folder: Path, rates: float = 1.0) -> Losses:
        """Train in a folder, with the learning rates times a factor: the loss of each step, and at the end
        what the model and each of its averages lose on held-out text."""
        parts, config = self.make(), _at_rates(self.config, rates)
        run = Run(folder, "pretrain", "base", config, seed=5)

        def measure() -> dict[str, float]:
            return mean_loss(parts.model, parts.objective, parts.held_out)

        plan = config.plan(STEPS * config.accumulation)
        try:
            trained = train(parts.model, parts.objective, parts.batches, plan, config, run, validate=dict)
        finally:
            run.close()
        found = {"steps": [line["loss"] for line in read_metrics(folder / "metrics.jsonl")]}
        ends: dict[str, Mapping[str, torch.Tensor]] = {"end": parts.model.state_dict(), **trained.averages}
        for name, weights in ends.items():
            parts.model.load_state_dict(dict(weights))
            found[name] = [measure()["loss"]]
        return found


def _at_rates(config: LoopConfig, factor: float) -> LoopConfig:
    names = ("learning_rate", "matrix_learning_rate")
    changed = {n: rate * factor for n in names if (rate := getattr(config.optimizer, n)) is not None}
    return config.model_copy(update={"optimizer": config.optimizer.model_copy(update=changed)})


class Bytes:
    """Paragraphs as a stream of byte ids, each ended by END. One of ten is held out."""

    def __init__(self, held_out: bool = False) -> None:
        found = paragraphs(held_out)
        self._ids = np.concatenate([np.array([*each, END]) for each in found])

    def __len__(self) -> int:
        return len(self._ids)

    def read(self, start: int, length: int) -> np.ndarray:
        return self._ids[start : start + length]


def paragraphs(held_out: bool) -> list[bytes]:
    """Those of the text that are trained on, or the others."""
    found = [each.strip().encode("ascii") for each in TEXT.read_text().split("\n\n") if each.strip()]
    return [each for number, each in enumerate(found) if (number % 10 == 9) == held_out]


def windows(held_out: bool = False) -> Windows:
    return Windows(Bytes(held_out), ROWS, CONTEXT, seed=11, end_of_text=END)


def answers(held_out: bool = False) -> list[Example]:
    """The second half of what begins each paragraph is learned, given the first."""
    beginnings = [each[:40] for each in paragraphs(held_out) if len(each) >= 40]
    return [Example([*each, END], [place >= 20 for place in range(41)]) for each in beginnings]


def pairs(held_out: bool = False) -> list[tuple[Example, Example]]:
    """How each paragraph goes on is preferred to the same bytes in reverse."""
    found = answers(held_out)
    return [(one, Example([*one.ids[:20], *one.ids[39:19:-1], END], one.mask)) for one in found]


class First:
    """The first micro-batches of an endless row."""

    def __init__(self, batches: Batches, count: int) -> None:
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index]


def make_model(balance: BalanceConfig | None = None, **changes: object) -> Transformer:
    sizes = {
        "vocab_size": 128, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    model = Transformer(ModelConfig.model_validate(sizes | changes), balance=balance)
    initialize(model, 17)
    return model


ADAMW = OptimizerConfig(kind="adamw", learning_rate=3e-3, weight_decay=0.1)
MUON = OptimizerConfig(learning_rate=3e-3, matrix_learning_rate=0.02)
NORMUON = MUON.model_copy(update={"even_neurons": True, "cautious": True, "weight_decay": 0.1})
HELD_OUT = 3
"""Micro-batches of windows."""


def dense(**changes: Any) -> Parts:
    """Pre-training on windows."""
    return Parts(make_model(**changes), NextToken(1e-4), windows(), First(windows(True), HELD_OUT))


def mixture() -> Parts:
    """The same with a mixture of experts that a bias keeps in balance."""
    experts = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
    return dense(architecture="qwen3_moe", balance=BalanceConfig(kind="bias", z_loss=1e-3), **experts)


def finetuned() -> Parts:
    """Masked examples packed into rows; a model with biases."""
    train, held_out = (
        Packed(answers(side), ROWS, 2 * CONTEXT, seed=11, padding=END, epochs=STEPS) for side in (False, True)
    )
    return Parts(make_model(architecture="qwen2"), NextToken(), train, held_out)


def aligned() -> Parts:
    """Pairs against the model's own start; a model without QK-norm."""
    model = make_model(architecture="llama")
    train, held_out = (_against(model, pairs(side)) for side in (False, True))
    return Parts(model, DirectPreference(sft_weight=0.1), train, held_out)


@torch.no_grad()
def _against(reference: Transformer, found: list[tuple[Example, Example]]) -> Pairs:
    """Pairs with a reference's log-probabilities."""
    plain, logps = Pairs(found, ROWS, 11, END), torch.empty(len(found), 2)
    for index in range(len(plain)):
        batch = plain[index]
        logps[plain.members(index)] = sequence_logps(reference.on_batch(batch), batch.targets).view(-1, 2)
    return Pairs(found, ROWS, 11, END, logps.flatten(), epochs=STEPS)


CONFIGURATIONS = {
    "dense, AdamW": Configuration(
        LoopConfig(optimizer=ADAMW, schedule=ScheduleConfig(kind="cosine", warmup_fraction=0.1, final=0.1)),
        lambda: dense(tie_word_embeddings=False),
    ),
    "dense, Muon, averages": Configuration(
        LoopConfig(
            optimizer=MUON,
            accumulation=3,
            batch_ramp=BatchRampConfig(start=0.3, fraction=0.3),
            averages=AveragesConfig(half_lives=(0.05, 0.2), tails=(0.3,), powers=(0.1,)),
        ),
        dense,
    ),
    "mixture of experts, NorMuon": Configuration(LoopConfig(optimizer=NORMUON), mixture),
    "finetune, masks, packed": Configuration(LoopConfig(optimizer=MUON), finetuned),
    "align, AdamW": Configuration(
        LoopConfig(optimizer=ADAMW.model_copy(update={"learning_rate": 1e-3})), aligned
    ),
}
"""Name -> training."""

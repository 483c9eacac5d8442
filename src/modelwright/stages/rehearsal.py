"""A few real steps of a training, in a process of its own: what a step takes, and what the process holds.

The same loop, model and objective as the stations', on random tokens: time and memory do not depend on what a
text says. `in_a_process` starts `python -m modelwright.stages.rehearsal`, which prints what it found.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelwright import objectives
from modelwright.base.config import Config
from modelwright.base.device import choose
from modelwright.base.errors import UserError
from modelwright.base.metrics import read_metrics
from modelwright.base.resources import peak_resident_bytes, resident_bytes
from modelwright.base.run import Run
from modelwright.base.schema import IGNORE, Batch
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.planning.forecast import Rehearsed
from modelwright.planning.memory import CPU_BASE, Training
from modelwright.planning.shape import Shape
from modelwright.training.batches import next_token_batch
from modelwright.training.loop import LoopConfig, train

STEPS, WARM_UP = 6, 2
"""Steps in all, and those at the start that are not counted."""
DOCUMENT = 80
"""Tokens of a random document, on average."""
SECONDS = 600


def can_stand_for(training: Training) -> bool:
    """Whether these steps are a training's: they train all of a model, and compute nothing again."""
    return training.frozen is None and training.checkpointing == "none"


def in_a_process(name: str, config: Config, shape: Shape, training: Training) -> Rehearsed:
    """Rehearse a station's training. `config` has its loop's settings."""
    loop = {field: getattr(config, field) for field in LoopConfig.model_fields}
    asked = {
        "model": architecture(shape).model_dump(mode="json"),
        "loop": LoopConfig(**loop).model_dump(mode="json"),
        "objective": getattr(config, "objective", {"name": "next_token"}),
        "rows": training.batch.rows,
        "context": training.batch.context,
        "dtype": training.dtype,
        "masked": training.batch.masked,
        "supervised": training.supervised,
    }
    command = [sys.executable, "-m", "modelwright.stages.rehearsal"]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=SECONDS, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(
            f"{STEPS} steps of {name} take more than {SECONDS} s here: plan without --probe"
        ) from error
    except subprocess.CalledProcessError as error:
        raise UserError(f"the rehearsal of {name} failed: {error.stderr.strip()[-300:]}") from error
    found = json.loads(done.stdout.splitlines()[-1])
    return Rehearsed(step_seconds=found["step_seconds"], peak_memory=found["peak_memory"])


def architecture(shape: Shape) -> ModelConfig:
    """One of our networks with a shape."""
    if not shape.gated or shape.all_biases:
        raise UserError(
            f"{shape.name} is no network of ours, so it cannot be rehearsed: plan without --probe"
        )
    dense = "qwen3" if shape.qk_norm else "qwen2" if shape.qkv_bias else "llama"
    return ModelConfig(
        architecture="qwen3_moe" if shape.experts else dense,
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
        num_experts=shape.experts,
        num_experts_per_tok=shape.active_experts,
        moe_intermediate_size=shape.expert_width,
    )


class RandomBatches:
    """Micro-batches of random tokens, as a station's view would lay them out."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked

    def __getitem__(self, index: int) -> Batch:
        """Micro-batch `index`."""
        asked = self._asked
        random = np.random.default_rng(index)
        ids = random.integers(1, asked["model"]["vocab_size"], (asked["rows"], asked["context"] + 1))
        ids[random.random(ids.shape) < 1 / DOCUMENT] = 0
        batch = next_token_batch(list(ids), 0)
        learned = torch.from_numpy(random.random(batch.targets.shape) < asked["supervised"])
        targets = torch.where(learned, batch.targets, IGNORE)
        if asked["masked"]:
            return Batch(ids=batch.ids, targets=targets, segments=batch.segments)
        reference = {"reference_logps": torch.zeros(asked["rows"])}
        return Batch(ids=batch.ids, targets=targets, extra=reference, unit=2)


def rehearse(asked: dict[str, Any]) -> dict[str, float]:
    """Run the steps here; seconds of one, and the peak of a station's process: such a process before there is
    a model, and what this one grew by. On a GPU: the peak there."""
    device, before = choose("auto", asked["dtype"]), resident_bytes()
    model = Transformer(ModelConfig(**asked["model"]), device.dtype)
    initialize(model, 0)
    model.to(device.name)
    config = LoopConfig(**asked["loop"])
    plan = config.plan(STEPS * config.accumulation)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), "rehearsal", "base", config, seed=0)
        objective = objectives.build(asked["objective"])
        train(
            model,
            objective,
            RandomBatches(asked),
            plan,
            config,
            run,
            validate=dict,
            matmul_dtype=device.dtype,
        )
        run.close()
        peak = float(CPU_BASE + peak_resident_bytes() - before)
        tokens = asked["rows"] * asked["context"] * config.accumulation
        speeds = [row["tokens_per_second"] for row in read_metrics(Path(folder) / "timing.jsonl")]
    seconds = statistics.median(tokens / speed for speed in speeds[WARM_UP:])
    if device.name == "cuda":
        peak = float(torch.cuda.max_memory_reserved())
    return {"step_seconds": seconds, "peak_memory": peak}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(rehearse(json.load(sys.stdin))) + "\n")

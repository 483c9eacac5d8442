"""What torchrun starts in the tests of several processes: a list of trainings, one after the other, so that
one start serves many checks. Run as `python -m tests.training.together TASKS.json`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.training.tiny import make_windows

from modelwright.base.device import Device
from modelwright.base.following import open_run
from modelwright.base.schema import IGNORE, Batch
from modelwright.base.world import World, join
from modelwright.compression.nf4 import nf4_linear
from modelwright.model.adaptation import AdapterConfig, adapt
from modelwright.model.config import ModelConfig
from modelwright.model.init import first_weights
from modelwright.model.layers import Linear
from modelwright.model.rows import EMBEDDING, learn_rows
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training import checkpoint, loop
from modelwright.training.compute import ComputeConfig
from modelwright.training.loop import LoopConfig, mean_loss, train
from modelwright.training.parallel import spread_out
from modelwright.training.recompute import recompute

CPU = Device("cpu", torch.float32, 1, False)
SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


class FewBatches:
    """Held-out data: micro-batches that two processes, and four, cannot share evenly. A row has no target."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Batch:
        batch = make_windows(rows=3, seed=9)[index]
        batch.targets[0] = IGNORE
        return batch


def train_together(folder: Path, task: dict[str, Any], world: World) -> None:
    """One training as a task describes it; leaves metrics.jsonl, checkpoints and end.safetensors."""
    config = LoopConfig.model_validate(task.get("loop", {}))
    compute = ComputeConfig.model_validate(task.get("compute", {}))
    shape = ModelConfig(**(SIZES | task.get("model", {})))
    with torch.device("meta"):
        model = Transformer(shape)
    if adapter := task.get("adapter"):
        model = with_adapter(model, AdapterConfig(**adapter), task.get("nf4", False))
        spread = spread_out(model, model.model.layers, {}, compute, CPU, world, replicated=True)
    else:
        if compute.activation_checkpointing != "none":
            recompute(model.model.layers, compute.activation_checkpointing)
        plan = tensor_plan(shape, compute.tensor_parallel)
        spread = spread_out(model, model.model.layers, plan, compute, CPU, world)
        spread.fill(first_weights(model, seed=1))
    batches = make_windows(task.get("rows", 4), task.get("length", 16))
    steps = config.plan(task["steps"] * config.accumulation)
    if world.is_first:
        folder.mkdir(parents=True, exist_ok=True)
    run = open_run(world)(folder, "pretrain", "base", config, seed=5)
    held_out = FewBatches()

    def validate() -> dict[str, float]:
        return {"validation_loss": task.get("sign", 1) * mean_loss(spread, NextToken(), held_out)["loss"]}

    try:
        trained = train(spread, NextToken(), batches, steps, config, run, validate=validate)
    finally:
        run.close()
    ends = dict(spread.weights())
    for average, pieces in trained.averages.items():
        ends |= {f"{average}/{name}": spread.layout.whole(name, piece) for name, piece in pieces.items()}
    if world.is_first:
        flat = {name: tensor.detach().contiguous() for name, tensor in ends.items()}
        save_file(flat, folder / "end.safetensors")


def with_adapter(model: Transformer, config: AdapterConfig, nf4: bool) -> Transformer:
    """A whole model beside which an adapter learns, and two rows of its embedding."""
    model.load_state_dict(dict(first_weights(model, seed=1)), assign=True)
    for name, layer in list(model.model.layers.named_modules()) if nf4 else ():
        if isinstance(layer, Linear):
            model.model.layers.set_submodule(name, nf4_linear(layer.weight.detach(), bias=False))
    adapt(model, config, seed=2)
    learn_rows(model, {EMBEDDING: torch.tensor([3, 39])})
    return model


def continue_from(source: Path, folder: Path) -> None:
    """Take over the first checkpoint of another training, as if it had been interrupted there."""
    if not folder.exists():
        first = sorted((source / "checkpoints").glob("step-*"))[0]
        shutil.copytree(first, folder / "checkpoints" / first.name)
        shutil.copy(source / "metrics.jsonl", folder)


def die_once(calls: str, number: int, marker: Path) -> None:
    """The second process is killed in the `number`-th call of a function, and not again after a restart."""
    owner = {"_accumulate": loop, "save_pieces": checkpoint}[calls]
    original, made = getattr(owner, calls), {"n": 0}

    def deadly(*args, **kwargs):
        made["n"] += 1
        result = original(*args, **kwargs)
        if made["n"] == number and join().rank == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, calls, deadly)


def main(path: Path) -> None:
    torch.set_num_threads(1)
    world = join()
    for task in json.loads(path.read_text()):
        folder = path.parent / task["name"]
        if "from" in task and world.is_first:
            continue_from(path.parent / task["from"], folder)
        originals = loop._accumulate, checkpoint.save_pieces
        if "die" in task:
            die_once(*task["die"], marker=path.parent / f"{task['name']} has died")
        train_together(folder, task, world)
        loop._accumulate, checkpoint.save_pieces = originals
    world.barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""What the processes of test_several.py do: train one step, and write down what each holds and sends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.training.tiny import make_windows
from tests.training.together import CPU, with_adapter
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.base.world import join
from modelwright.model.adaptation import AdapterConfig
from modelwright.model.config import ModelConfig
from modelwright.model.init import first_weights
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.compute import ComputeConfig
from modelwright.training.loop import _accumulate
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from modelwright.training.parallel import spread_out
from modelwright.training.recompute import recompute

SIZES = {
    "vocab_size": 160, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8, "tie_word_embeddings": False,
}  # fmt: skip
ROWS, LENGTH = 8, 16


class Sent(TorchDispatchMode):
    """Bytes that leave this process, as rings send them, whatever gloo does."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.bytes += _leaving(str(func), args)
        return func(*args, **(kwargs or {}))


def _leaving(name: str, args: Any) -> float:
    match name.removesuffix(".default"):
        case "c10d._allgather_base_":
            return args[0].nbytes - args[1].nbytes
        case "c10d._reduce_scatter_base_":
            return args[1].nbytes - args[0].nbytes
        case "c10d.allgather_":
            return sum(each.nbytes for each in args[0][0]) - args[1][0].nbytes
        case "c10d.allreduce_":
            size = dist.ProcessGroup.unbox(args[1]).size()
            return 2 * sum(each.nbytes for each in args[0]) * (size - 1) / size
        case "c10d.alltoall_base_":
            splits, rank = args[4], dist.get_rank() % len(args[4])
            return args[1].nbytes * (1 - splits[rank] / max(1, sum(splits)))
        case "_c10d_functional.all_gather_into_tensor":
            return args[0].nbytes * (args[1] - 1)
        case "_c10d_functional.reduce_scatter_tensor":
            return args[0].nbytes * (args[2] - 1) / args[2]
    return 0.0


def step(task: dict[str, Any]) -> dict[str, float]:
    """One update; bytes that this process holds, and those that left it."""
    world, shape = join(), ModelConfig(**(SIZES | task.get("model", {})))
    compute = ComputeConfig.model_validate(task["compute"])
    with torch.device("meta"):
        model = Transformer(shape)
    if adapter := task.get("adapter"):
        model = with_adapter(model, AdapterConfig(**adapter), nf4=False)
        spread = spread_out(model, model.model.layers, {}, compute, CPU, world, replicated=True)
    else:
        if compute.activation_checkpointing != "none":
            recompute(model.model.layers, compute.activation_checkpointing)
        plan = tensor_plan(shape, compute.tensor_parallel)
        spread = spread_out(model, model.model.layers, plan, compute, CPU, world)
        spread.fill(first_weights(model, seed=1))
    rule = OptimizerConfig(kind=task["kind"])
    optimizer = Optimizer(spread.parameters().items(), rule, layout=spread.layout)
    shares = spread.deal(make_windows(rows=ROWS, length=LENGTH), range(task.get("accumulation", 1)))
    with Sent() as gradients:
        _accumulate(spread, NextToken(), shares, ROWS * LENGTH, optimizer, 0)
    learned = list(spread.parameters().values())
    kept = sum(piece.grad.nbytes for piece in learned if piece.grad is not None)
    with Sent() as update:
        optimizer.step(1.0)
    state = sum(tensor.nbytes for tensor in optimizer.state().values() if tensor.ndim)
    return {
        "weights": sum(piece.nbytes for piece in spread.pieces().values()),
        "gradients": kept,
        "optimizer": state,
        "sent": gradients.bytes,
        "sent by the optimizer": update.bytes,
        "tokens": sum(share.batch.ids.numel() for share in shares),
    }


def main(path: Path) -> None:
    """Every task of a file; each process writes its own findings beside it."""
    torch.set_num_threads(1)
    found = {task["name"]: step(task) for task in json.loads(path.read_text())}
    (path.parent / f"found-{join().rank}.json").write_text(json.dumps(found))
    join().barrier()

"""Real processes in a box of replicas x shards x tensor-parallel ways: the gradient of every parameter of a
step of several micro-batches is that of one process, and copies exchange theirs once a step."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from tests import children
from tests.training.tiny import make_windows
from tests.training.together import CPU, SIZES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.base.world import World, join
from modelwright.model.config import ModelConfig
from modelwright.model.init import first_weights
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.compute import ComputeConfig
from modelwright.training.loop import _accumulate
from modelwright.training.optimizer import Optimizer, OptimizerConfig
from modelwright.training.parallel import Sharded, spread_out
from modelwright.training.spread import Spread

Case = dict[str, Any]
NONE, FSDP, HSDP = {"shard": "none"}, {"shard": "fsdp"}, {"shard": "hsdp", "shard_size": 2}
WAYS = {"tensor_parallel": 2}
MIXTURE = {"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
MIXTURE |= {"moe_intermediate_size": 16, "router_aux_loss_coef": 0.1}
CASES: dict[int, dict[str, Case]] = {
    4: {
        "hsdp 2x2, one micro-batch": {"compute": HSDP, "micro": 1},
        "hsdp 2x2, each cut by rows": {"compute": HSDP, "micro": 3},
        "hsdp 2x2, dealt out whole": {"compute": HSDP, "micro": 8},
        "hsdp 2x2, fewer rows than readers": {"compute": HSDP, "micro": 3, "rows": 3},
        "hsdp 2x2, mixture": {"compute": HSDP, "micro": 2, "rows": 3, "model": MIXTURE},
        "replicas 4": {"compute": NONE, "micro": 3},
        "replicas x tensor 2x2": {"compute": NONE | WAYS, "micro": 3},
        "fsdp x tensor 2x2": {"compute": FSDP | WAYS, "micro": 3},
    },
    8: {
        "hsdp x tensor 2x2x2": {"compute": HSDP | WAYS, "micro": 3},
        "hsdp x tensor 2x2x2, dealt out whole": {"compute": HSDP | WAYS, "micro": 8},
        "hsdp x tensor 2x2x2, mixture": {"compute": HSDP | WAYS, "micro": 2, "model": MIXTURE},
    },
}
LIMIT = 1e-5
"""Of the largest number of a gradient: others are sums in which larger ones cancel."""


class Collectives(TorchDispatchMode):
    """How often this process adds gradients up with others, by their ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.reduced: Counter[tuple[int, ...]] = Counter()
        self.scattered: Counter[tuple[int, ...]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) == "c10d.allreduce_.default":
            self.reduced[_ranks(args[1])] += 1
        elif str(func) == "c10d._reduce_scatter_base_.default":
            self.scattered[_ranks(args[2])] += 1
        return func(*args, **(kwargs or {}))


def _ranks(group: Any) -> tuple[int, ...]:
    return tuple(dist.get_process_group_ranks(dist.ProcessGroup.unbox(group)))


def step(case: Case, world: World) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The loss and whole gradients of a step; how many micro-batches this process ran, and how often copies
    and shards exchanged gradients meanwhile."""
    shape = ModelConfig(**(SIZES | case.get("model", {})))
    compute = ComputeConfig.model_validate(case["compute"] if world.size > 1 else {})
    with torch.device("meta"):
        model = Transformer(shape)
    plan = tensor_plan(shape, compute.tensor_parallel)
    spread = spread_out(model, model.model.layers, plan, compute, CPU, world)
    spread.fill(first_weights(model, seed=1))
    optimizer = Optimizer(spread.parameters().items(), OptimizerConfig(), layout=spread.layout)
    batches, indices = make_windows(case.get("rows", 4)), range(case["micro"])
    shares = spread.deal(batches, indices)
    count = sum(NextToken().count(batches[index]) for index in indices)
    for number in range(2):  # the second finds what the first has left
        with Collectives() as seen:
            sums = _accumulate(spread, NextToken(), shares, count, optimizer, number)
    tensors = {"loss": spread.add_up(sums["loss"])}
    for name, piece in spread.pieces().items():
        assert piece.grad is not None
        tensors[name] = spread.layout.whole(name, piece.grad)
    return tensors, {"micro": len(shares)} | exchanged(spread, seen)


def exchanged(spread: Spread, seen: Collectives) -> dict[str, int]:
    if not isinstance(spread, Sharded):
        return {}
    box, rank = spread.box, spread.world.rank
    first, way = rank - rank % box.held_by, rank % box.tensor
    copies = range(rank % box.held_by, spread.world.size, box.held_by)
    shards = range(first + way, first + box.held_by, box.tensor)
    return {"copies": seen.reduced[tuple(copies)], "shards": seen.scattered[tuple(shards)]}


def work(folder: Path) -> None:
    world = join()
    for name, case in CASES[world.size].items():
        tensors, counts = step(case, world)
        (folder / f"{name}, {world.rank}.json").write_text(json.dumps(counts))
        if world.is_first:
            save_file(tensors, folder / f"{name}.safetensors")
    world.barrier()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Where so many processes have left what they found in all their cases; they are started once."""

    @cache
    def start(processes: int) -> Path:
        folder = tmp_path_factory.mktemp(f"{processes}")
        codes = children.run_together(folder / "errors", processes, work, folder)
        assert not any(codes), (folder / "errors").read_text()
        return folder

    return start


SLOW = {8: [pytest.mark.slow]}
EVERY = pytest.mark.parametrize(
    ("processes", "name"),
    [pytest.param(size, name, marks=SLOW.get(size, [])) for size, cases in CASES.items() for name in cases],
)


@EVERY
def test_gradients_are_those_of_one_process(started: Any, processes: int, name: str) -> None:
    expected, _ = step(CASES[processes][name], World())
    tensors = load_file(started(processes) / f"{name}.safetensors")
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        scale = float(expected[key].abs().max())
        where = f"{key}: " + "{}"
        torch.testing.assert_close(tensor, expected[key], rtol=LIMIT, atol=LIMIT * scale, msg=where.format)


@EVERY
def test_copies_add_gradients_up_once_a_step(started: Any, processes: int, name: str) -> None:
    """Shards are scattered with every micro-batch: a process that did not would keep whole gradients."""
    case, groups = CASES[processes][name], SIZES["num_hidden_layers"] + 1
    counts = [
        json.loads((started(processes) / f"{name}, {rank}.json").read_text()) for rank in range(processes)
    ]
    micro, readers = case["micro"], processes // case["compute"].get("tensor_parallel", 1)
    expected = {"micro": micro // readers if micro % readers == 0 else micro}
    expected["copies"] = groups if "fsdp" not in name else 0
    expected["shards"] = groups * expected["micro"] if "replicas" not in name else 0
    assert counts == [expected] * processes

"""Several processes train one module: FSDP2 (arXiv 2304.11277), HSDP, tensor parallelism.

Where few parameters learn beside frozen ones (adapters), each process has all of them instead: `Replicated`.

Otherwise the processes form a box: replicas x shards x tensor. Processes along "tensor" hold parts of each
matrix product and read the same rows (tensor_parallel.py). Along "shards" they hold parts of each parameter,
gathered where a block computes and given up after it. "replicas" hold copies of one another. Rows are dealt
out over replicas and shards.

Gradients are added up and not divided: the loss is divided by the count of the whole batch beforehand,
so that a step is the same at any number of processes but for the rounding of sums in another order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from modelwright.base.device import Device
from modelwright.base.errors import ConfigError
from modelwright.base.metrics import counted
from modelwright.base.world import World
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.compute import ComputeConfig
from modelwright.training.layout import Piece, ShardedLayout, in_order, whole_piece
from modelwright.training.spread import Spread
from modelwright.training.tensor_parallel import add_up_gradients, cut, hand_out_head

REPLICAS, SHARDS, TENSOR = "replicas", "shards", "tensor"


@dataclasses.dataclass(frozen=True, slots=True)
class Box:
    """How many processes stand along each side."""

    replicas: int
    shards: int
    tensor: int

    @property
    def held_by(self) -> int:
        """Processes that hold one copy of the parameters together. Their ranks follow one another."""
        return self.shards * self.tensor

    def describe(self) -> str:
        """For the log."""
        sides = zip(("replicas", "shards", "tensor parallel"), dataclasses.astuple(self), strict=True)
        return " x ".join(f"{size} {name}" for name, size in sides if size > 1) or "1 process"


def choose_box(config: ComputeConfig, world: World) -> Box:
    """Where each process stands. "auto" shards over the processes of one machine and replicates over
    machines: parameters travel inside a machine, gradients alone between them."""
    ways = config.tensor_parallel
    if world.size % ways:
        raise ConfigError(
            f"compute.tensor_parallel is {ways}, which does not divide the {counted(world.size, 'process')}:"
            f" start a multiple of {ways} (torchrun --nproc-per-node)"
        )
    readers = world.size // ways
    near = max(1, world.local_size // ways)
    sizes = {"none": 1, "fsdp": readers, "hsdp": near, "auto": near}
    shards = config.shard_size or sizes[config.shard]
    if readers % shards:
        raise ConfigError(
            f"{readers} processes that read different rows cannot hold copies in groups of {shards}: set "
            "compute.shard_size to a divisor, or compute.shard to fsdp"
        )
    return Box(readers // shards, shards, ways)


def check_processes(config: ComputeConfig, world: World, *, replicated: bool = False) -> None:
    """Raise ConfigError where so many processes cannot hold a module as the settings say. `replicated`: each
    has all of it."""
    if replicated and world.size > 1:
        _refuse_cuts(config)
    elif world.size > 1 or config.tensor_parallel > 1:
        choose_box(config, world)


def spread_out(
    module: nn.Module,
    blocks: Iterable[nn.Module],
    plan: Mapping[str, str],
    config: ComputeConfig,
    device: Device,
    world: World,
    *,
    replicated: bool = False,
) -> Spread:
    """Let all processes hold `module` together; alone, it is only brought to the device.

    `blocks` are gathered one at a time; `plan` says by module name how each is cut for tensor parallelism.
    Parameters on the meta device are made, not filled: see `Spread.fill`. `replicated`: each process has all
    of it already, and few of its parameters learn.
    """
    check_processes(config, world, replicated=replicated)
    if world.size == 1:
        on_meta = any(parameter.is_meta for parameter in module.parameters())
        return Spread(module.to_empty(device=device.name) if on_meta else module.to(device.name))
    if replicated:
        return Replicated(module.to(device.name), world)
    again = config.activation_checkpointing == "none"
    return Sharded(module, blocks, plan, choose_box(config, world), device, world, gather_again=again)


def _refuse_cuts(config: ComputeConfig) -> None:
    cut = [f"tensor_parallel: {config.tensor_parallel}"] if config.tensor_parallel > 1 else []
    cut += [f"shard: {config.shard}"] if config.shard in ("fsdp", "hsdp") else []
    cut += [f"shard_size: {config.shard_size}"] if (config.shard_size or 1) > 1 else []
    if cut:
        raise ConfigError(
            f"compute.{cut[0]} cuts weights into pieces, and those beside an adapter are whole in every"
            " process: leave it out. Where they are too large for one, hold them in nf4 or int8 (weights)"
        )


class Several(Spread):
    """What does not depend on how several processes hold a module."""

    box: Box

    def checkpoints(self, folder: Path, keep: int, background: bool) -> Checkpoints:
        place = folder / "checkpoints"
        return Checkpoints(place, keep, self.world, self.layout, self.is_original, background)

    is_original = True
    """Whether this process holds a part of the first copy: the one that is saved."""

    def add_up(self, tensor: Tensor) -> Tensor:
        return in_order(tensor.contiguous())[:: self.box.tensor].sum(0)  # where it lies: no GPU waits for it

    def totals(self, sums: Mapping[str, float]) -> dict[str, float]:
        values = torch.tensor(list(sums.values()), dtype=torch.float64)
        return dict(zip(sums, self.add_up(values).tolist(), strict=True))


class Replicated(Several):
    """Several processes that hold the whole module each, as PyTorch's DDP does (arXiv 2006.15704): of what
    learns, gradients are added up once a step; what is frozen, in whatever format, never travels."""

    def __init__(self, module: nn.Module, world: World) -> None:
        self.module, self.world, self.box = module, world, Box(world.size, 1, 1)
        self.place, self.is_original = (world.rank, world.size), world.is_first
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        groups: list[Any] = [dist.new_group([rank]) for rank in range(world.size)]
        whole = {name: whole_piece(shape) for name, shape in shapes.items()}
        self.layout = ShardedLayout(shapes, [whole], groups[world.rank], 0)

    def collect(self) -> None:
        """Add gradients up. Where a process has none, it adds zeros."""
        learned = list(self.parameters().values())
        parts = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in learned]
        together = torch.cat([part.reshape(-1) for part in parts])
        dist.all_reduce(together)
        for parameter, part in zip(learned, together.split([p.numel() for p in learned]), strict=True):
            parameter.grad = part.view(parameter.shape)


class Sharded(Several):
    """Several processes, each with its pieces of the parameters as plain tensors: what updates them need not
    know of DTensor, which lives in the module alone."""

    def __init__(
        self,
        module: nn.Module,
        blocks: Iterable[nn.Module],
        plan: Mapping[str, str],
        box: Box,
        device: Device,
        world: World,
        *,
        gather_again: bool,
    ) -> None:
        self.module, self.world, self.box = module, world, box
        sides = (box.replicas, box.shards, box.tensor)
        mesh = init_device_mesh(device.name, sides, mesh_dim_names=(REPLICAS, SHARDS, TENSOR))
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        cuts = cut(module, plan, mesh[TENSOR], gather_again=gather_again) if box.tensor > 1 else {}
        _shard(module, blocks, mesh, device)
        groups: list[Any] = [
            dist.new_group(list(range(first, first + box.held_by)))
            for first in range(0, world.size, box.held_by)
        ]
        replica, rank = divmod(world.rank, box.held_by)
        pieces = [
            {name: _piece(shape, cuts.get(name), box, at) for name, shape in shapes.items()}
            for at in range(box.held_by)
        ]
        self.layout = ShardedLayout(shapes, pieces, groups[replica], rank)
        self.is_original = replica == 0
        self.place = (world.rank // box.tensor, box.replicas * box.shards)
        self._tensor_group = mesh[TENSOR].get_group()
        self._wholes = {name: _sharded(parameter) for name, parameter in module.named_parameters()}
        self._pieces = {
            name: nn.Parameter(whole.to_local().detach(), whole.requires_grad)
            for name, whole in self._wholes.items()
        }
        self._whole_on_each = {name: piece for name, piece in self._pieces.items() if name not in cuts}
        for name, piece in self._pieces.items():
            assert tuple(piece.shape) == pieces[rank][name].shape, f"{name} is not cut as it was said to be"

    @property
    def device(self) -> torch.device:
        return next(iter(self._pieces.values())).device

    def pieces(self) -> Mapping[str, nn.Parameter]:
        return self._pieces

    @torch.no_grad()
    def fill(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            self._pieces[name].copy_(weight[self.layout.pieces[self.layout.rank][name].slices])

    def before_backward(self, last: bool) -> None:
        """Gradients are scattered to shards in each backward pass, so that nobody keeps a whole one. Copies
        add theirs up in the last alone: until then each keeps its own sum, in the room of the gradient."""
        if self.box.replicas > 1:
            assert isinstance(self.module, FSDPModule)
            self.module.set_requires_all_reduce(last)

    @torch.no_grad()
    def collect(self) -> None:
        """Hand the gradients from the module over to the pieces."""
        for name, whole in self._wholes.items():
            gradient = whole.grad
            self._pieces[name].grad = gradient.to_local() if isinstance(gradient, DTensor) else gradient
            whole.grad = None
        if self.box.tensor > 1:
            add_up_gradients(self._whole_on_each, self._tensor_group)

    def settle(self) -> None:
        assert isinstance(self.module, FSDPModule)
        self.module.reshard()


def _shard(module: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, device: Device) -> None:
    """FSDP2 on every block, then on the rest. On a GPU parameters travel in the format of the products, and
    gradients in fp32."""
    half = device.name == "cuda" and device.dtype == torch.bfloat16
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if half else None,
        reduce_dtype=torch.float32 if half else None,
        cast_forward_inputs=False,
    )
    along = mesh[REPLICAS, SHARDS] if mesh[REPLICAS].size() > 1 else mesh[SHARDS]
    settings: dict[str, Any] = {"mesh": along, "mp_policy": policy}
    # Before FSDP's own hook, which would hang one more hook on the head's weight at every step.
    module.register_forward_hook(hand_out_head)
    for block in blocks:
        fully_shard(block, **settings)
    # The head is used after the forward pass (by the loss), so the last group is given up after the backward.
    fully_shard(module, reshard_after_forward=False, **settings)
    if any(parameter.is_meta for parameter in module.parameters()):
        module.to_empty(device=device.name)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
            part.unshard()  # FSDP settles at first use where its pieces lie in memory: let that be now
            part.reshard()


def _sharded(parameter: nn.Parameter) -> DTensor:
    assert isinstance(parameter, DTensor), "every parameter is sharded by now"
    return parameter


def _piece(shape: tuple[int, ...], along: int | None, box: Box, at: int) -> Piece:
    """Which box of a parameter the process at place `at` of a copy holds: a part along the axis of the tensor
    plan, and of that the part along the first axis that FSDP takes, each as torch.chunk cuts."""
    shard, way = divmod(at, box.tensor)
    offset, size = list(whole_piece(shape).offset), list(shape)
    for axis, place, parts in ((along, way, box.tensor), (0, shard, box.shards)):
        if axis is not None:
            step = -(-size[axis] // parts)
            first, last = (min(each * step, size[axis]) for each in (place, place + 1))
            offset[axis], size[axis] = offset[axis] + first, last - first
    return Piece(tuple(offset), tuple(size))

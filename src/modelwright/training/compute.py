"""Where and in which format a stage computes, and whether its blocks are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from modelwright.base.config import Config
from modelwright.base.device import Device, choose, name_of
from modelwright.base.errors import UserError
from modelwright.training.batches import MULTIPLE

EIGHT_BITS = (8, 9)
"""Compute capability of the first NVIDIA GPUs (Ada; then Hopper, 9.0) that multiply in 8 bits."""


class ComputeConfig(Config):
    """Every "auto" is decided by looking at the machine, and the log says what was decided."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Format of activations and products; weights and optimizer state stay in fp32."""
    compile: Literal["auto", "always", "never"] = "auto"
    """torch.compile of the blocks. "auto": where a compiler is found and the run is long enough."""
    compile_pays_after: float = Field(default=1e15, ge=0)
    """FLOPs of training from which "auto" compiles. Measured on two CPU cores: the first compilation took
    35 to 55 s and saved 4 % of a step with compiled row kernels (a fifth without), so a run has to take
    half an hour to earn it back. On a CPU that multiplies bf16 "auto" never does in that format: our own
    attention (kernels/tiles.py), which does not go with it, holds no scores, and a step is as fast or faster
    (benchmarks/train_cpu.py: by 6 % at 4M parameters with matrix units; with AVX512-BF16 alone by 7 % there
    and by -1 % at 98M, within the noise)."""
    compile_mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"
    """What torch.compile takes time for: max-autotune also tries out kernels for products, for minutes."""
    fp8: bool = False
    """Linear layers inside the blocks in 8 bits, in training alone: on GPUs that can (Ada, Hopper and newer),
    for large models (kernels/fp8.py)."""
    shard: Literal["auto", "none", "fsdp", "hsdp"] = "auto"
    """How several processes (torchrun) hold the parameters. none: each has all. fsdp: all hold one copy
    together. hsdp: the processes of one machine do. "auto": hsdp."""
    shard_size: int | None = Field(default=None, gt=0)
    """Processes that hold a copy together, where it is to be another number."""
    tensor_parallel: int = Field(default=1, gt=0)
    """Processes that compute each matrix product together and read the same rows."""
    activation_checkpointing: Literal["none", "full", "selective"] = "none"
    """Less memory for more arithmetic: what is computed again in the backward pass."""
    checkpoint_every_block: int = Field(default=1, gt=0)
    """Every how-manieth block does so."""

    @model_validator(mode="after")
    def _eight_bits_of_bf16(self) -> Self:
        if self.fp8 and (self.dtype == "float32" or self.tensor_parallel > 1):
            raise ValueError("compute.fp8 goes with dtype bfloat16, and not with tensor_parallel")
        return self


def resolve(config: ComputeConfig) -> Device:
    """Choose the device and the format; what it cannot do is refused."""
    check_device(config)
    return choose(config.device, config.dtype)


def check_device(config: ComputeConfig) -> None:
    """Raise UserError where this machine lacks the device that is asked for, or that cannot do the rest."""
    device = name_of(config.device)
    if config.fp8:
        _check_eight_bits(device)


def _check_eight_bits(device: str) -> None:
    if device != "cuda":
        raise UserError("compute.fp8 needs an NVIDIA GPU, and this runs on a CPU: leave it out")
    found = torch.cuda.get_device_capability()
    if found < EIGHT_BITS:
        raise UserError(
            f"compute.fp8 needs a GPU of compute capability {_version(EIGHT_BITS)} or more (Ada, Hopper), "
            f"and {torch.cuda.get_device_name()} has {_version(found)}: leave it out"
        )


def _version(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))


def allow_tf32(device: Device, log: Callable[[str], None]) -> None:
    """Where a GPU computes in bf16, let what little it multiplies in fp32 (a router, gradients of norms) go
    through tensor cores too. Who asks for fp32 gets fp32."""
    if device.name == "cuda" and device.dtype == torch.bfloat16:
        torch.set_float32_matmul_precision("high")
        log("products in fp32 outside of the blocks' own: TF32 (10 bits of mantissa)")


def compile_blocks(
    blocks: Iterable[nn.Module],
    config: ComputeConfig,
    device: Device,
    flops: float,
    log: Callable[[str], None],
    *,
    own_are_faster: bool = False,
) -> None:
    """Compile each block in place, where that is asked for or pays: not where our own kernels are the faster
    ones.

    Blocks have the same code, so the compiler runs once for all of them; compiling the whole network
    instead takes several times as long for a few per cent more speed. The first size of a batch is taken as
    the only one; where a second one comes (rows padded to the longest of them), that side is compiled once
    more for all sizes. One program for each would end at torch's eighth, and the rest would run eagerly; only
    where tensor-parallel ways do not divide the lengths of padded rows is it so, since torch's compiler does
    not end on sizes that it does not know and that are dealt out unevenly (2.13).
    """
    pays = flops >= config.compile_pays_after and not own_are_faster
    wanted = config.compile == "always" or (config.compile == "auto" and pays)
    if not wanted or not device.compiler:
        lacks = f": {device.missing}" if device.missing else ""
        reason = f"no compiler found{lacks}" if wanted else "not worth its cost here"
        log(f"{device.describe()}; running eagerly ({reason})")
        return
    log(f"{device.describe()}; compiling the blocks at the first step")
    dynamic = False if MULTIPLE % config.tensor_parallel else None
    for block in blocks:
        block.compile(mode=config.compile_mode, dynamic=dynamic)

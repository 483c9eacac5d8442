"""Where and in which format a stage computes, and whether its blocks are compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from pydantic import Field
from torch import nn

from modelwright.base.config import Config
from modelwright.base.device import Device, choose


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
    half an hour to earn it back."""
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


def resolve(config: ComputeConfig) -> Device:
    """Choose the device and the format."""
    return choose(config.device, config.dtype)


def compile_blocks(
    blocks: Iterable[nn.Module],
    config: ComputeConfig,
    device: Device,
    flops: float,
    log: Callable[[str], None],
) -> None:
    """Compile each block in place, where that is asked for or pays.

    Blocks have the same code, so the compiler runs once for all of them; compiling the whole network
    instead takes several times as long for a few per cent more speed.
    """
    wanted = config.compile == "always" or (config.compile == "auto" and flops >= config.compile_pays_after)
    if not wanted or not device.compiler:
        reason = "no C++ compiler found" if wanted else "not worth its cost here"
        log(f"{device.describe()}; running eagerly ({reason})")
        return
    log(f"{device.describe()}; compiling the blocks at the first step")
    for block in blocks:
        block.compile(dynamic=False)

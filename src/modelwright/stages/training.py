"""What the training stages share: a model over the processes there are, and back into one folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from modelwright.base.device import Device
from modelwright.base.errors import ConfigError
from modelwright.base.files import atomic_directory
from modelwright.base.metrics import counted
from modelwright.base.run import Run
from modelwright.base.seams import Objective
from modelwright.base.world import join, place
from modelwright.formats.huggingface import CONFIG, load_config, save_model
from modelwright.kernels import native, tiles
from modelwright.model.config import VOCABULARY, ModelConfig
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer
from modelwright.planning.machines import peak_rate
from modelwright.training.batches import Batches
from modelwright.training.compute import ComputeConfig, allow_tf32, check_device, compile_blocks
from modelwright.training.loop import LoopConfig, Show, Trained, Validate, train
from modelwright.training.parallel import check_processes, choose_box, spread_out
from modelwright.training.recompute import recompute
from modelwright.training.record import Pace
from modelwright.training.spread import Spread
from modelwright.training.step_plan import StepPlan


def check_compute(config: ComputeConfig, *, replicated: bool = False) -> None:
    """Raise UserError where this machine, or the processes that were started on it, cannot train as `config`
    says."""
    check_device(config)
    check_processes(config, place(), replicated=replicated)


def check_steps(config: LoopConfig) -> None:
    """Raise ConfigError where the settings ask for steps that cannot be."""
    if config.batch_ramp and config.accumulation == 1:
        raise ConfigError(
            "batch_ramp begins with fewer micro-batches a step, and accumulation is 1: no step can take fewer"
            " than one. Raise accumulation, and lower rows by as much; or leave batch_ramp out"
        )


def beginning(stations: Mapping[str, Any]) -> ModelConfig | None:
    """The network that a life of `stations`, verb -> settings, begins with: the one that is pre-trained, or
    that lies in the folder which is imported; None where neither tells. Raises ConfigError where the settings
    describe no network."""
    if "pretrain" in stations:
        vocabulary = stations["tokenize"].vocab_size if "tokenize" in stations else VOCABULARY
        made: ModelConfig = stations["pretrain"].model.derive(vocabulary)
        return made
    folder = imported(stations)
    return load_config(folder) if folder else None


def imported(stations: Mapping[str, Any]) -> Path | None:
    """The folder that a life begins with, where it is one: not a name on the hub, not a GGUF file."""
    folder = Path(stations["import"].model).expanduser() if "import" in stations else None
    return folder if folder and (folder / CONFIG).is_file() else None


def spread_model(
    model: Transformer, config: ComputeConfig, device: Device, run: Run, *, replicated: bool = False
) -> Spread:
    """Let all processes hold the model together, and bring it to their devices; the log says how.
    `replicated`: each holds all of it, as beside an adapter."""
    world, blocks = join(), list(model.model.layers)
    if config.activation_checkpointing != "none":
        kind = config.activation_checkpointing
        count = recompute(blocks, kind, config.checkpoint_every_block)
        run.log(f"activation checkpointing: {kind}, in {count} of {counted(len(blocks), 'block')}")
    if world.size > 1:
        how = f"{world.size} replicas" if replicated else choose_box(config, world).describe()
        run.computes_with("processes", f"{world.size}: {how}")
    plan = {} if replicated else tensor_plan(model.config, config.tensor_parallel)
    return spread_out(model, blocks, plan, config, device, world, replicated=replicated)


def train_model(
    run: Run,
    config: LoopConfig,
    compute: ComputeConfig,
    device: Device,
    spread: Spread,
    model: Transformer,
    objective: Objective,
    batches: Batches,
    plan: StepPlan,
    *,
    validate: Validate,
    flops: float,
    flops_per_token: float,
    show: Show | None = None,
) -> Trained:
    """Run the loop on a model that all processes hold; the log says what computes it. `flops` of the whole
    training decide whether compiling pays, those of a token what MFU is."""
    run.computes_with("row kernels", native.describe(device.name, device.dtype))
    if tiles.serves(device.name, device.dtype):
        by = "matrix units" if tiles.has_unit() else "AVX512-BF16"
        run.computes_with("attention", f"compiled C++ on {by}, where heads are multiples of 32")
    alone = spread.world.size == 1
    make_fast(model, compute, device, run.log, flops=flops, accumulation=config.accumulation, alone=alone)
    return train(
        spread,
        objective,
        batches,
        plan,
        config,
        run,
        validate=validate,
        matmul_dtype=device.dtype,
        pace=_pace_of(run, device, flops_per_token),
        show=show,
    )


def make_fast(
    model: Transformer,
    compute: ComputeConfig,
    device: Device,
    log: Callable[[str], None],
    *,
    flops: float,
    accumulation: int,
    alone: bool,
) -> None:
    """Choose how the device multiplies, and say it. `alone`: no other process holds the model too (FSDP casts
    weights itself, when it gathers them)."""
    one_gpu = alone and device.name == "cuda"
    allow_tf32(device, log)
    if compute.fp8:
        log(f"{model.use_eight_bits()} linear layers inside the blocks are trained in 8 bits (e4m3, e5m2)")
    if one_gpu and accumulation > 1 and device.dtype != torch.float32:
        model.keep_copies()
        log("matrices inside the blocks are cast once a step")
    parts = [*model.model.layers, *([model.model.norm] if one_gpu else [])]  # a CPU has a kernel for the norm
    own_are_faster = tiles.serves(device.name, device.dtype)
    compile_blocks(parts, compute, device, flops, log, own_are_faster=own_are_faster)


def _pace_of(run: Run, device: Device, flops_per_token: float) -> Pace | None:
    """What the first process, which writes it down, holds its speed against; the log says what that is."""
    if not run.keeps:
        return None
    peak, source = peak_rate(str(device.dtype).removeprefix("torch."))
    run.log(f"MFU is against {peak / 1e12:.3g} TFLOP/s in matrix products ({source})")
    return Pace(flops_per_token, peak)


def keep_model(run: Run, spread: Spread, model: Transformer, tokenizer: Path) -> None:
    """Write the trained model as a Hugging Face folder: gathered weight by weight, written by the first
    process."""
    weights = {name: weight.cpu() for name, weight in spread.weights() if run.keeps}
    if run.keeps:
        with atomic_directory(run.dir / "model") as folder:
            save_model(folder, model, tokenizer, weights)

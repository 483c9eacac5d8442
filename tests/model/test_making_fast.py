"""Weights cast once a step train the same bits as weights cast for every micro-batch; what a device is given
is said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import make_model, make_windows, train_in
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.base.device import Device
from modelwright.base.metrics import read_metrics
from modelwright.model.layers import Linear
from modelwright.objectives.next_token import NextToken
from modelwright.stages.training import make_fast
from modelwright.training.compute import ComputeConfig
from modelwright.training.loop import LoopConfig
from modelwright.training.optimizer import OptimizerConfig

GPU = Device("cuda", torch.bfloat16, 1, True)
"""What a GPU would be described as: enough to see what is chosen for it."""


@pytest.fixture(autouse=True)
def _precision_stays() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def said_for(
    device: Device, compute: ComputeConfig, accumulation: int = 2, alone: bool = True
) -> tuple[nn.Module, list[str]]:
    model, lines = make_model(), list[str]()
    model.compute_dtype = device.dtype
    make_fast(model, compute, device, lines.append, flops=0.0, accumulation=accumulation, alone=alone)
    return model, lines


class Plain(TorchDispatchMode):
    """Passes everything on. Compiled CPU kernels, which round in another order, stand back while it is on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_copies_train_the_same_bits(tmp_path: Path, kind: str) -> None:
    config = LoopConfig(accumulation=3, optimizer=OptimizerConfig.model_validate({"kind": kind}))
    models = [make_model(), make_model()]
    for name, model in zip(("cast", "copied"), models, strict=True):
        model.compute_dtype = torch.bfloat16
        if name == "copied":
            model.keep_copies()
        with Plain():
            train_in(tmp_path / name, model, NextToken(), make_windows(), 5, config)
    lines, others = (list(read_metrics(tmp_path / name / "metrics.jsonl")) for name in ("cast", "copied"))
    assert lines == others
    weights, same = (model.state_dict() for model in models)
    assert weights.keys() == same.keys(), "copies are not saved"
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_copy_is_for_training_alone() -> None:
    layer, x = Linear(4, 4, bias=False), torch.eye(4)
    layer.copy = torch.zeros(4, 4)
    assert not layer(x).any()
    with torch.no_grad():
        assert torch.equal(layer(x), layer.weight.T)


def test_a_gpu_in_bf16_is_given_what_helps_it_and_the_log_says_what() -> None:
    model, lines = said_for(GPU, ComputeConfig(compile="never", fp8=True))
    assert torch.get_float32_matmul_precision() == "high"
    assert sum(isinstance(part, Linear) and part.copy is not None for part in model.modules()) == 14
    text = "\n".join(lines)
    assert "TF32" in text and "are cast once a step" in text
    assert "10 linear layers inside the blocks are trained in 8 bits" in text  # not keys and values, 8 wide


def test_who_asks_for_fp32_gets_fp32() -> None:
    before = torch.get_float32_matmul_precision()
    device = Device("cuda", torch.float32, 1, True)
    model, lines = said_for(device, ComputeConfig(compile="never", dtype="float32"))
    assert torch.get_float32_matmul_precision() == before
    assert all(part.copy is None for part in model.modules() if isinstance(part, Linear))
    assert len(lines) == 1 and "running eagerly" in lines[0]


def test_cpus_single_micro_batches_and_shards_keep_no_copies() -> None:
    cpu = Device("cpu", torch.bfloat16, 1, False)
    for device, accumulation, alone in ((cpu, 2, True), (GPU, 1, True), (GPU, 2, False)):
        model, _ = said_for(device, ComputeConfig(compile="never"), accumulation, alone)
        assert all(part.copy is None for part in model.modules() if isinstance(part, Linear))

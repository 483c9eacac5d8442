"""The benchmarks of fine-tuning at a toy size: what is compared is the same work, and figures add up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

from modelwright.compression.nf4 import nf4_linear
from modelwright.model.adaptation import changed_layers
from modelwright.model.nf4 import NF4Linear

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _benchmarks():
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def gpu(_benchmarks):
    return importlib.import_module("sft_gpu")


def test_gpu_cases_run_tiny(gpu):
    found = gpu.run_tiny()
    assert [row["case"] for row in found] == list(gpu.CASES)
    assert all(row["tokens_per_second"] > 0 and row["used_gb"] is None for row in found)
    assert found[1]["bar_gb"] == 10 and "full activation checkpointing" in found[1]["how"]


def test_losses_that_part_are_refused(gpu, monkeypatch):
    honest = gpu.run_tuned

    def off(tuned, compute, steps, drawn_on=None):
        found = honest(tuned, compute, steps, drawn_on)
        wrong = 1.1 if compute.dtype == "bfloat16" else 1.0
        return found | {"losses": [wrong * loss for loss in found["losses"]]}

    monkeypatch.setattr(gpu, "run_tuned", off)
    with pytest.raises(SystemExit, match="bfloat16 on cpu: losses are off by"):
        gpu.losses_agree("cpu")


def test_without_a_gpu_a_case_says_so_and_fails_alone(gpu, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "GPU" in gpu.in_process("7B, 2k, QLoRA", 400.0)["failed"]
    assert "nearly over" in gpu.in_process("7B, 2k, QLoRA", 10.0)["failed"]


def test_the_shapes_are_the_ones_that_are_named(gpu):
    with torch.device("meta"):
        seven = gpu.train_gpu.Transformer(gpu.SEVEN_BILLION)
    assert seven.num_parameters() / 1e9 == pytest.approx(6.74, abs=0.01)


@pytest.mark.parametrize("quantize", [None, nf4_linear])
def test_random_models_are_adapted_in_every_linear_layer(gpu, quantize):
    case = gpu.tiny(gpu.CASES["7B, 2k, QLoRA"].case)
    model = gpu.random_adapted(case.shape, torch.bfloat16, "cpu", 4, quantize)
    layers = changed_layers(model)
    assert len(layers) == 7 * case.shape.num_hidden_layers
    assert all(isinstance(each.base, NF4Linear) == bool(quantize) for each in layers.values())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    assert model.head.dtype == torch.bfloat16 and not model.head.requires_grad


def test_the_most_memory_of_a_process_is_seen():
    record = importlib.import_module("record")
    if not Path("/proc/self/status").is_file():
        pytest.skip("the kernel tells it on Linux alone")

    def peak(megabytes: int) -> float:
        code = (
            f"import time; x = bytearray(b'1') * ({megabytes} << 20); time.sleep(0.2); del x; time.sleep(0.1)"
        )
        return record.peak_anonymous_bytes([sys.executable, "-c", code]) / 2**20

    assert peak(100) - peak(20) == pytest.approx(80, abs=8)
    with pytest.raises(SystemExit, match="ended with status 3"):
        record.peak_anonymous_bytes([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_step_counts_conversations_and_no_padding(monkeypatch):
    ours = importlib.import_module("sft_ours")
    cases = importlib.import_module("gpu_cases")
    told = []
    rows = cases.Conversations(cases.tiny(cases.CASES["SFT 0.6B, 16k"]), 8)
    seconds = iter(range(100))
    monkeypatch.setattr(ours.time, "perf_counter", lambda: float(next(seconds)))
    counted = ours.Counted(rows, told.append, accumulation=2)
    for index in range(5):
        counted[index]
    real = [int((rows[index].segments >= 0).sum()) for index in range(4)]
    assert [each["rate"] for each in told] == [real[0] + real[1], real[2] + real[3]]
    assert min(real) < rows[0].ids.numel(), "a row has padding"


def test_less_is_better_where_memory_is_compared():
    try:
        benchmark = importlib.import_module("sft_cpu")
    except ImportError as missing:  # transformers is an extra
        pytest.skip(str(missing))
    row = benchmark._less("lora: ours", "MiB", [300.0], [600.0], "TRL", benchmark.MEMORY_BAR)
    assert (row.ours, row.peer, row.ratio) == (300, 600, 2) and row.ratio > row.bar

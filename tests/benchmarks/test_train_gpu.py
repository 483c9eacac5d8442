"""The GPU benchmark where there is no GPU: every path at a toy size, and figures that add up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module("train_gpu")
    finally:
        sys.path.remove(str(FOLDER))


def test_it_runs_tiny(benchmark):
    found = benchmark.run_tiny()
    assert [row["case"] for row in found] == [*benchmark.CASES, benchmark.PEER]
    assert all(row["tokens_per_second"] > 0 and row["mfu"] is None for row in found)
    packed = next(row for row in found if row["case"].startswith("SFT"))
    assert packed["mean_context"] < packed["context"]


def test_losses_that_part_are_refused(benchmark, monkeypatch):
    honest = benchmark.run_ours

    def off(case, compute, steps):
        found = honest(case, compute, steps)
        return (
            found if compute.dtype == "float32" else {**found, "losses": [0.9 * x for x in found["losses"]]}
        )

    monkeypatch.setattr(benchmark, "run_ours", off)
    with pytest.raises(SystemExit, match="bfloat16 on cpu: losses"):
        benchmark.losses_agree("cpu")


def test_the_shapes_are_the_ones_that_are_named(benchmark):
    def millions(name: str) -> float:
        with torch.device("meta"):
            return benchmark.Transformer(benchmark.CASES[name].shape).num_parameters() / 1e6

    assert millions("GPT-2 small") == pytest.approx(124, abs=1)
    assert millions("1B") == pytest.approx(1000, rel=0.02)
    assert millions("SFT 0.6B, 16k") == pytest.approx(596, abs=1)


def test_mfu_and_peaks(benchmark):
    assert benchmark.peak_of("NVIDIA H200") == 989e12
    assert benchmark.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert benchmark.peak_of("NVIDIA H100 PCIe") == 756e12
    assert benchmark.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert benchmark.peak_of("Voodoo 2") is None
    measured = {
        "parameters": 1, "tokens_per_second": [1.0, 3.0, 2.0], "flops_per_token": 10.0,
        "peak_bytes": 2**31, "warm_up_seconds": 1.0,
    }  # fmt: skip
    row = benchmark.summary(benchmark.CASES["1B"], measured, 40.0)
    assert row["mfu"] == 0.5 and row["peak_gib"] == 2.0 and row["spread"] == [1.0, 3.0]


def test_the_context_counted_is_that_of_the_mean_token(benchmark):
    class Two:
        def __getitem__(self, index: int) -> benchmark.Batch:
            segments = torch.tensor([[0] * 30 + [1] * 10])
            return benchmark.Batch(ids=segments, targets=segments, segments=segments)

    assert benchmark.mean_context(Two(), benchmark.SMALL) == pytest.approx((900 + 100) / 40)

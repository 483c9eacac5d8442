"""Metrics survive a writer that is killed in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.metrics import MetricsFile, counted, read_metrics, size


def test_a_torn_last_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "timing.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "sec')
    assert [line["step"] for line in read_metrics(path)] == [1]
    for step in (2, 3):
        file = MetricsFile(path)
        file.write(step, {"seconds": float("inf")})
        file.close()
    assert list(read_metrics(path)) == [{"step": 1}, *({"step": s, "seconds": None} for s in (2, 3))]


def test_rewind_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        file.write(step, {"loss": 1.0 / step})
    file.rewind(2)
    file.write(3, {"loss": 0.5})
    file.close()
    assert [line["loss"] for line in read_metrics(file.path)] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (1, "step", "1 step"),
        (0, "step", "0 steps"),
        (1200, "step", "1,200 steps"),
        (2, "process", "2 processes"),
        (2, "micro-batch", "2 micro-batches"),
        (2, "copy", "2 copies"),
        (2, "day", "2 days"),
        (1, "tensor-parallel way", "1 tensor-parallel way"),
    ],
)
def test_one_thing_is_not_many(number: int, noun: str, said: str) -> None:
    assert counted(number, noun) == said


def test_sizes_have_one_kind_of_unit() -> None:
    counts = (0, 1, 1023, 1024, 1500, 15_200_000, 2**30 - 1, 1.42e9, 5e12)
    assert [size(count) for count in counts] == [
        *("0 bytes", "1 byte", "1,023 bytes", "1 KiB", "1.46 KiB"),
        *("14.5 MiB", "1,024 MiB", "1.32 GiB", "4.55 TiB"),
    ]


@given(st.integers(0, 2**50))
def test_a_size_is_within_half_a_per_cent(count: int) -> None:
    number, unit = size(count).split()
    powers = {"KiB": 1, "MiB": 2, "GiB": 3, "TiB": 4}
    assert float(number.replace(",", "")) * 1024 ** powers.get(unit, 0) == pytest.approx(count, rel=5e-3)

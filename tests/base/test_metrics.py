"""Metrics survive a writer that is killed in the middle of a line."""

from __future__ import annotations

from pathlib import Path

from modelwright.base.metrics import MetricsFile, read_metrics


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

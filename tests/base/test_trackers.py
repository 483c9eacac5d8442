"""Trackers get copies of a run's values; TensorBoard's own reader judges the files written for it."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.config import Config
from modelwright.base.run import Run
from modelwright.base.trackers import Place, Trackers
from modelwright.base.trackers.tensorboard import FOLDER, EventFile, _integer, crc32c


def place(folder: Path, after: int = 0) -> Place:
    return Place(folder, "lives", "pretrain", {"depth": 2}, after)


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


@pytest.mark.parametrize(
    ("content", "crc"),
    [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)],
)
def test_checksums_are_those_of_rfc_3720(content: bytes, crc: int) -> None:
    assert crc32c(content) == crc


@given(st.integers(0, 2**62))
def test_integers_are_varints(number: int) -> None:
    encoded = _integer(1, number)[1:]
    assert sum((byte & 127) << 7 * place for place, byte in enumerate(encoded)) == number
    assert all(byte > 127 for byte in encoded[:-1]) and encoded[-1] < 128


@given(
    st.lists(st.dictionaries(st.text(min_size=1, max_size=9), st.floats(width=32), max_size=4), max_size=6)
)
@settings(deadline=None, max_examples=20)
def test_tensorboard_reads_what_was_written(tmp_path_factory, rows: list[dict[str, float]]) -> None:
    folder = tmp_path_factory.mktemp("events")
    trackers = Trackers(["tensorboard"], place(folder), 0, lambda text: None)
    expected: dict[str, list[tuple[int, float]]] = {}
    for step, row in enumerate(rows, 1):
        trackers.log(step, row)
        for name, value in row.items():
            if abs(value) < float("inf"):
                expected.setdefault(name, []).append((step, value))
    trackers.close()
    assert scalars(folder / FOLDER) == expected


def test_steps_done_again_stand_once(tmp_path: Path) -> None:
    """Killed after step 5, the checkpoint at 3: steps 4 and 5 come again."""
    first = Trackers(["tensorboard"], place(tmp_path), 0, lambda text: None)
    for step in range(1, 6):
        first.log(step, {"loss": 10.0 - step})
    second = Trackers(["tensorboard"], place(tmp_path, after=3), 5, lambda text: None)
    for step in range(4, 8):
        second.log(step, {"loss": 10.0 - step})
    second.close()
    first.close()
    assert scalars(tmp_path / FOLDER)["loss"] == [(step, 10.0 - step) for step in range(1, 8)]


class Remembers:
    """A tracker that can take nothing back."""

    def __init__(self, fails_at: int = 0) -> None:
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.fails_at, self.closed = fails_at, False

    def log(self, step: int, values: dict[str, float]) -> None:
        if step == self.fails_at:
            raise ConnectionError("the server has gone")
        self.rows.append((step, dict(values)))

    def close(self) -> None:
        self.closed = True


def opened(monkeypatch: pytest.MonkeyPatch, tracker: Remembers, name: str = "trackio") -> None:
    module: Any = types.ModuleType(f"modelwright.base.trackers.{name}")
    module.open_tracker = lambda place: tracker
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_what_was_sent_is_not_sent_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tracker = Remembers()
    opened(monkeypatch, tracker)
    trackers = Trackers(["trackio"], place(tmp_path, after=3), 5, lambda text: None)
    for step in range(4, 8):
        trackers.log(step, {"loss": 1.0, "event": "skip", "bad": float("nan")})
    trackers.close()
    assert tracker.rows == [(6, {"loss": 1.0}), (7, {"loss": 1.0})] and tracker.closed


def test_a_tracker_that_fails_is_said_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    opened(monkeypatch, Remembers(fails_at=2))
    trackers = Trackers(["trackio", "tensorboard"], place(tmp_path), 0, said.append)
    for step in range(1, 5):
        trackers.log(step, {"loss": 1.0})
    trackers.close()
    assert [line for line in said if "left out" in line] == [
        "tracker trackio is left out from here on (ConnectionError: the server has gone)"
    ]
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_library_that_is_not_there_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    said: list[str] = []
    Trackers([name], place(tmp_path), 0, said.append).log(1, {"loss": 1.0})
    assert len(said) == 1 and f"pip install {name}" in said[0]


def test_a_run_sends_metrics_and_timings(tmp_path: Path) -> None:
    run = Run(tmp_path / "pretrain", "pretrain", "base", Config(), 0)
    run.metrics.rewind(0)
    run.track(["tensorboard"], 0)
    run.metric(1, loss=2.5, event="skip: too large")
    run.timing(1, tokens_per_second=100.0)
    run.close()
    found = scalars(run.dir / FOLDER)
    assert found["loss"] == [(1, 2.5)] and found["timing/tokens_per_second"] == [(1, 100.0)]
    assert "event" not in found


def test_an_event_file_never_replaces_another(tmp_path: Path) -> None:
    files = [EventFile(tmp_path, 0) for _ in range(3)]
    for file in files:
        file.close()
    assert len(list(tmp_path.iterdir())) == 3

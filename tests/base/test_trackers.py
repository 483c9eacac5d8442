"""Trackers get copies of a run's values; TensorBoard's own reader judges the files written for it."""

from __future__ import annotations

import json
import struct
import sys
import types
from collections.abc import Iterator
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


def two_sessions(name: str, folder: Path) -> None:
    """Steps 1 to 3, and in a second session 4 to 6, of which it repeats none; each step in two calls."""
    said: list[str] = []
    for steps, before in ((range(1, 4), 0), (range(3, 7), 3)):
        trackers = Trackers([name], place(folder, after=before), before, said.append)
        for step in steps:
            trackers.log(step, {"loss": 10.0 - step})
            trackers.log(step, {"timing/seconds": step / 2})
        trackers.close()
    assert said == [f"tracker: {name}"] * 2, said


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_mlflow_keeps_both_sessions_in_one_run_of_a_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    pytest.importorskip("sqlalchemy", reason="mlflow without sqlalchemy has no database")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    two_sessions("mlflow", tmp_path)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("lives")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"depth": "2"} and run.info.run_name == "pretrain"
    for metric, value in (("loss", lambda step: 10.0 - step), ("timing/seconds", lambda step: step / 2)):
        history = client.get_metric_history(run.info.run_id, metric)
        assert [(each.step, each.value) for each in history] == [(n, value(n)) for n in range(1, 7)]


@pytest.mark.filterwarnings("ignore")  # the library's own
def test_wandb_writes_a_row_a_step_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    two_sessions("wandb", tmp_path)
    files = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2 and len({file.stem for file in files}) == 1, "two sessions of one run"
    rows = [row for file in files for row in offline_rows(file)]
    assert [row["_step"] for row in rows] == [*range(1, 7)]
    assert [(row["loss"], row["timing/seconds"]) for row in rows] == [(10.0 - n, n / 2) for n in range(1, 7)]


def offline_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a W&B file: protocol buffers in the format of LevelDB's log, behind a header of 7 bytes."""
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    rows = list[dict[str, Any]]()
    for content in log_records(file.read_bytes(), begin=7):
        record = records.Record()
        record.ParseFromString(content)
        if record.HasField("history"):
            items = record.history.item
            rows.append({(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items})
    return rows


def log_records(content: bytes, begin: int, block: int = 32768) -> Iterator[bytes]:
    """Blocks of fragments: checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle, 4: last)."""
    place, parts = begin, b""
    while place + 7 <= len(content):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""

"""Time to a loss: the search for the shortest training, and losses that are kept."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("time_to_loss")


class FallingLosses:
    """A study whose loss is 1,000 / steps."""

    def __init__(self) -> None:
        self.trained: list[int] = []

    def ours(self, steps: int, seed: int) -> float:
        self.trained.append(steps)
        return 1000 / steps


@pytest.mark.parametrize("needed", [100, 101, 240, 399, 400])
def test_the_shortest_training_is_found_with_few(benchmark: ModuleType, needed: int) -> None:
    study = FallingLosses()
    found = benchmark.shortest(study, 1000 / needed, seed=0)
    assert found == min(steps for steps in benchmark.HORIZONS if steps >= needed)
    assert len(study.trained) <= 5


def test_a_goal_out_of_reach_is_said(benchmark: ModuleType) -> None:
    with pytest.raises(SystemExit, match="did not reach"):
        benchmark.shortest(FallingLosses(), 1.0, seed=0)


def test_runs_are_compared_seed_by_seed(benchmark: ModuleType) -> None:
    seconds = {"ours": [1.0, 2.0, 3.0], "plain loop": [1.0, 1.0, 4.0]}
    runs, steps = benchmark.compared(seconds, [100, 200, 400], "peer")
    assert (runs.low, runs.ratio, runs.high) == (0.5, 1.0, 2.0)
    assert runs.ours == 3600 / (200 * 2.0)
    assert steps.ratio == 1.0 and steps.rounds == 3


def test_a_loss_is_measured_once(benchmark: ModuleType, tmp_path: Path) -> None:
    record = importlib.import_module("record")
    measured: list[float] = []

    def measure() -> float:
        measured.append(2.5)
        return 2.5

    file = tmp_path / "losses.jsonl"
    assert record.kept(file, "one", measure) == record.kept(file, "one", measure) == 2.5
    assert record.kept(file, "two", measure) == 2.5
    assert len(measured) == 2
    assert record.known(file) == {"one": 2.5, "two": 2.5}

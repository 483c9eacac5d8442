"""Units of work are done once and whole, whoever runs them and whatever kills them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelwright.base.errors import DamagedFile, UserError
from modelwright.data.execution import Execution, Performer, alone_in, local
from modelwright.data.execution import beat as beat_module
from modelwright.data.execution.beat import Beat
from modelwright.data.execution.holding import hold
from modelwright.data.execution.run import SMALL_BYTES, start_afresh
from modelwright.data.execution.worker import NOTES

UNIT = "tests.data.execution.jobs:unit"
ALL = [0, 1, 2, 3, 4]


def perform(
    folder: Path, plan: dict[str, str], units: int = 4, here: bool = False, **settings: Any
) -> tuple[dict[int, Any], int, list[str]]:
    """Results, bytes of progress, and what was logged."""
    folder.mkdir(exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan))
    said: list[str] = []
    advanced: list[int] = []
    size = 0 if here else SMALL_BYTES
    with Performer(Execution(**settings), folder, size, said.append, trusted=here) as performer:
        found = performer(UNIT, range(units), advanced.append)
    return found, sum(advanced), said


@pytest.mark.parametrize("settings", [{"here": True}, {"workers": 1}, {"workers": 3}], ids=str)
def test_every_unit_is_done_and_its_progress_told(tmp_path: Path, settings: dict[str, Any]) -> None:
    found, advanced, said = perform(tmp_path, {}, **settings)
    assert found == {n: {"unit": n, "kept": ALL, "blamed": []} for n in range(4)}
    assert advanced == 4 * 50 and not said
    again, advanced, _ = perform(tmp_path, {}, **settings)
    assert again == {n: {"unit": n, "again": True} for n in range(4)} and advanced == 0


def test_a_killed_worker_costs_nothing(tmp_path: Path) -> None:
    found, _, said = perform(tmp_path, {"1:2": "die once", "3:0": "die once"}, workers=2)
    assert [found[n]["kept"] for n in range(4)] == [ALL] * 4
    assert len(said) == 2 and all("SIGKILL" in line for line in said)


def test_a_poisoned_document_is_found_and_costs_one_document(tmp_path: Path) -> None:
    found, _, said = perform(tmp_path, {"1:2": "die", "1:4": "die"}, workers=2)
    assert found[1] == {"unit": 1, "kept": [0, 1, 3], "blamed": [2, 4]}
    assert [found[n]["kept"] for n in (0, 2, 3)] == [ALL] * 3 and len(said) == 4


def test_work_on_many_documents_at_once_blames_no_wrong_one(tmp_path: Path) -> None:
    found, _, _ = perform(tmp_path, {"together": "", "0:1": "die", "0:3": "die"}, units=1, workers=1)
    assert found[0] == {"unit": 0, "kept": [0, 2, 4], "blamed": [1, 3]}


def test_a_unit_that_always_dies_is_given_up_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unit: unit 0 was given up after 6 worker processes died on it"):
        perform(tmp_path, {"0:start": "die"}, units=1, workers=1)
    found, _, _ = perform(tmp_path, {}, units=1, workers=1)
    assert found[0]["kept"] == ALL  # a new run blames nobody for the deaths of the last one


def test_small_input_is_protected_too_unless_it_is_our_own(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"0:2": "die", "0:3": "hang once"}))
    with Performer(Execution(stalled_seconds=4), tmp_path, 1, print) as performer:
        assert performer(UNIT, [0])[0] == {"unit": 0, "kept": [0, 1, 3, 4], "blamed": [2]}


def test_what_the_dead_left_goes_and_what_the_living_hold_stays(tmp_path: Path) -> None:
    notes = tmp_path / NOTES
    for phase in ("clean", "write"):
        (notes / phase).mkdir(parents=True)
        (tmp_path / phase / ".tmp-1234-000007").mkdir(parents=True)
    (tmp_path / ".tmp-5678-plan.json").touch()
    alive = Beat(notes / "clean", 7)
    alive.at(3)
    (notes / "write" / "000007.note").write_bytes((notes / "clean" / "000007.note").read_bytes())
    start_afresh(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    held = {"clean", "clean/.tmp-1234-000007", "notes", "notes/clean", "notes/clean/000007.note"}
    assert left == held | {"write", "notes/write"}
    with pytest.raises(UserError, match=r"another process is at work in .*: it holds 000007\.note"):
        hold(notes / "clean" / "000007.note", patience=0)
    alive.done()
    start_afresh(tmp_path)
    assert not list((tmp_path / "clean").iterdir()) and not list((notes / "clean").iterdir())


def test_two_runs_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    with alone_in(tmp_path), pytest.raises(UserError, match="same command running twice"), alone_in(tmp_path):
        pytest.fail("both at work")
    with alone_in(tmp_path):
        pass


def test_a_hanging_document_is_killed(tmp_path: Path) -> None:
    found, _, said = perform(tmp_path, {"0:1": "hang once"}, units=1, workers=1, stalled_seconds=4)
    assert found[0]["kept"] == ALL and "has not got on" in said[0]


def test_work_over_all_documents_is_killed_when_it_does_nothing_and_not_when_it_takes_long(
    tmp_path: Path,
) -> None:
    plan = {"0:start": "hang once", "1:start": "compute"}
    found, _, said = perform(tmp_path, plan, units=2, workers=2, stalled_seconds=2)
    assert found[0]["kept"] == found[1]["kept"] == ALL
    assert "unit 0 has not got on for 2 s" in said[0] and not any("unit 1" in line for line in said)


def test_a_run_that_was_stopped_for_long_takes_nobody_for_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-Z, a coffee, fg: the clock has gone on for all, and nobody has moved."""
    clock, said, killed = [0.0], list[str](), list[bool]()
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    Beat(tmp_path / NOTES / "unit", 0).at(3)
    processes = local.LocalProcesses(1, tmp_path, 30, said.append)
    process = SimpleNamespace(kill=lambda: killed.append(True))
    processes._workers.append(local._Worker(process, tmp_path, unit=0))  # type: ignore[arg-type]
    for seconds in (1, 1, 1000, 1000, 1, 8):
        clock[0] += seconds
        processes._kill_the_stalled(UNIT)
    assert not killed and not said
    clock[0] += 1
    processes._kill_the_stalled(UNIT)
    assert killed == [True] and "unit 0 has not got on for 30 s" in said[0]


@pytest.mark.parametrize("settings", [{"here": True}, {"workers": 2}], ids=str)
def test_failures_keep_their_kind_and_words(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match="page 3 is torn"):
        perform(tmp_path / "a", {"1:0": "damaged"}, **settings)
    with pytest.raises(RuntimeError, match=r"unit 1 failed:\n[\s\S]*ZeroDivisionError: one over nothing"):
        perform(tmp_path / "b", {"1:start": "bug"}, **settings)
    with pytest.raises(UserError, match=r"the disk is full: [\d,]+ bytes are left"):
        perform(tmp_path / "c", {"1:0": "full"}, **settings)
    found, _, _ = perform(tmp_path / "c", {}, **settings)
    assert set(found) == {0, 1, 2, 3}


@pytest.mark.parametrize("settings", [{"here": True}, {"workers": 2}], ids=str)
def test_an_error_on_a_document_costs_one_document(tmp_path: Path, settings: dict[str, Any]) -> None:
    found, _, _ = perform(tmp_path / "a", {"1:2": "bug", "1:4": "bug"}, **settings)
    assert found[1] == {"unit": 1, "kept": [0, 1, 3], "blamed": [2, 4]}
    assert [found[n]["kept"] for n in (0, 2, 3)] == [ALL] * 3
    found, _, _ = perform(
        tmp_path / "b",
        {"together": "", "0:1": "bug once", "0:3": "bug", "0:4": "bug once"},
        units=1,
        **settings,
    )
    assert found[0] == {"unit": 0, "kept": [0, 1, 2, 4], "blamed": [3]}


def test_what_was_raised_is_told_and_a_unit_of_errors_is_given_up(tmp_path: Path) -> None:
    def unit(document: int) -> bool:
        beat = Beat(tmp_path, 0)
        assert not beat.is_to_blame(document)
        beat.reading(document)
        beat.at(document)
        again = beat.take_up_again(f"the step 'x' raised {document}")
        beat.done()
        return again

    assert unit(3)  # whose fault it was is not known yet
    twice = [number for number in range(beat_module.MAX_BLAMED) for _ in range(2)]
    assert [unit(number) for number in twice] == [*[True] * 31, False]
    beat = Beat(tmp_path, 0)
    assert beat.careful and beat.is_to_blame(5) and not beat.is_unreadable(5)
    assert beat.error_on(5) == "the step 'x' raised 5"
    beat.nobody()
    assert not beat.take_up_again("about no document")


def test_a_worker_that_dies_without_work_is_let_go(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{}")
    said: list[str] = []
    with Performer(Execution(workers=2), tmp_path, SMALL_BYTES, said.append) as performer:
        performer(UNIT, range(4), lambda _: None)
        assert performer._processes is not None
        for worker in performer._processes._workers:
            worker.process.kill()
            worker.process.wait()
        found = performer(UNIT, range(4, 8), lambda _: None)
    assert sorted(found) == [4, 5, 6, 7]
    assert said == []  # nobody is blamed: no unit was begun

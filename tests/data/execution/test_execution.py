"""Units of work are done once and whole, whoever runs them and whatever kills them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.errors import DamagedFile, UserError
from modelwright.data.execution import Execution, Performer
from modelwright.data.execution.run import SMALL_BYTES

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
    with Performer(Execution(**settings), folder, size, said.append) as performer:
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


def test_a_unit_that_always_dies_is_given_up_with_a_reason(tmp_path: Path) -> None:
    plan = {f"0:{n}": "die" for n in range(5)}
    with pytest.raises(UserError, match="unit 0 was given up after 6 worker processes died on it"):
        perform(tmp_path, plan, units=1, workers=1)
    found, _, _ = perform(tmp_path, {}, units=1, workers=1)
    assert found[0]["kept"] == ALL  # a new run blames nobody for the deaths of the last one


def test_a_hanging_document_is_killed(tmp_path: Path) -> None:
    found, _, said = perform(tmp_path, {"0:1": "hang once"}, units=1, workers=1, stalled_seconds=1.5)
    assert found[0]["kept"] == ALL and "has not got on" in said[0]


@pytest.mark.parametrize("settings", [{"here": True}, {"workers": 2}], ids=str)
def test_failures_keep_their_kind_and_words(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(DamagedFile, match="page 3 is torn"):
        perform(tmp_path / "a", {"1:0": "damaged"}, **settings)
    with pytest.raises(RuntimeError, match=r"unit 1 failed:\n[\s\S]*ZeroDivisionError: one over nothing"):
        perform(tmp_path / "b", {"1:0": "bug"}, **settings)
    with pytest.raises(UserError, match=r"the disk is full: [\d,]+ bytes are left"):
        perform(tmp_path / "c", {"1:0": "full"}, **settings)
    found, _, _ = perform(tmp_path / "c", {}, **settings)
    assert set(found) == {0, 1, 2, 3}

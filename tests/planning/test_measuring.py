"""Measurements are noted once, taken again when it is quieter, and know whether they were disturbed."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.planning import measuring, trial_steps
from modelwright.planning.machines import GIB, Machine
from modelwright.planning.measuring import QUIET, best_seconds, disturbed, noted, watched
from modelwright.planning.trial_steps import CONTEXTS, measure, with_step_rates

HERE = Machine(name="here", kind="cpu", memory=8 * GIB, bandwidth=1e10, rates={"bfloat16": 1e11}, watts=20.0)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "modelwright" / "machines"


def test_measured_once_and_again_when_it_is_quieter(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    made: list[float] = []

    def take(share: float) -> tuple[dict[str, Any], float]:
        made.append(share)
        return {"count": len(made)}, share

    def ask(load: float, share: float = 1.0, **how: bool) -> int:
        monkeypatch.setattr(measuring, "_load", lambda: load)
        return noted("products", lambda: take(share), **how)[0]["count"]

    assert ask(3.0, share=0.5) == ask(3.0) == ask(4.0) == 1  # disturbed, and no quieter now
    assert ask(0.1) == 1  # quieter, but of this minute
    monkeypatch.setattr(measuring, "AGAIN", 0)
    assert ask(0.1, share=QUIET) == ask(0.0) == ask(5.0) == 2
    assert ask(9.0, again=True) == 3
    for broken in ("{", "[]", json.dumps({"share": "?", "found": {}, "load": 0})):
        next(own_cache.glob("*-products.json")).write_text(broken)
        assert ask(0.1) == len(made) > 3


def test_idle_time_is_no_share_of_the_processors() -> None:
    assert watched(lambda: time.sleep(0.05))[1] < 0.5
    matrix = torch.ones(1024, 1024)
    found, share = watched(lambda: float((matrix @ matrix)[0, 0]))
    assert found == 1024 and 0 < share <= 1
    assert not disturbed(QUIET) and "50%" in disturbed(0.5)


def test_the_quickest_of_a_few_times_counts() -> None:
    naps = iter([0.03, 0.0, 0.03])
    assert best_seconds(lambda: time.sleep(next(naps)), repeats=3) < 0.03


def test_small_networks_are_trained_for_real() -> None:
    rates = measure(torch.float32, widths=(64,))
    assert [(width, context) for width, context, _ in rates] == [(64, context) for context in CONTEXTS]
    assert all(1e7 < rate < 1e14 for *_, rate in rates)


def test_a_machine_gets_its_rates_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = json.dumps({"rates": [[64, 256, 1e9]], "share": 0.5, "kernels": "compiled C++"})
    done = subprocess.CompletedProcess([], 0, stdout=f"a library's word\n{found}\n")
    monkeypatch.setattr(trial_steps.subprocess, "run", lambda *_, **__: done)
    said: list[str] = []
    assert with_step_rates(HERE, "bfloat16", said.append).step_rates == {"bfloat16": [(64, 256, 1e9)]}
    assert len(said) == 2 and "once" in said[0] and "others were at work" in said[1]
    again = with_step_rates(HERE, "bfloat16", said.append)
    assert len(said) == 3 and with_step_rates(again, "bfloat16", said.append) is again


@pytest.mark.parametrize("answer", ["", "{}", '{"rates": 3, "share": 1, "kernels": ""}', None])
def test_where_no_step_can_be_tried_the_machine_stays(
    monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if answer is None:
            raise subprocess.CalledProcessError(137, "killed")
        return subprocess.CompletedProcess([], 0, stdout=answer)

    monkeypatch.setattr(trial_steps.subprocess, "run", run)
    assert with_step_rates(HERE, "float32") is HERE
    gpu = replace(HERE, kind="gpu")
    assert with_step_rates(gpu, "bfloat16") is gpu

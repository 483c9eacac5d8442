"""`modelwright bench`: figures that add up, for people and for programs."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from modelwright.base.errors import UserError
from modelwright.cli import main
from modelwright.terminal import bench as terminal


@pytest.fixture(scope="module")
def folder(tiny_model):
    return tiny_model()


def shown(folder, width=120, **settings) -> str:
    console = Console(file=(out := io.StringIO()), width=width)
    terminal.bench(folder, prompt=12, tokens=6, repeats=1, batches=(1, 4), console=console, **settings)
    return out.getvalue()


def test_figures_for_programs(folder):
    found = json.loads(shown(folder, as_json=True))
    assert [row["batch"] for row in found["rows"]] == [1, 4]
    assert found["device"] == "cpu" and found["bandwidth"] > 0 and found["peak_bytes"] > found["weight_bytes"]
    for row in found["rows"]:
        assert row["prefill"] == pytest.approx(row["batch"] * 12 / row["first_token_seconds"])
        assert row["token_seconds"] == pytest.approx(row["batch"] / row["decode"])
        reads = found["weight_bytes"] + row["batch"] * 15 * found["cache_bytes_per_token"]
        assert row["limit"] == pytest.approx(row["batch"] * found["bandwidth"] / reads)
        assert row["share"] == pytest.approx(row["decode"] / row["limit"])


def test_the_limit_is_that_of_the_device_that_computes(folder, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(terminal, "read_bandwidth", lambda size, device: asked.append(device) or 1e9)
    assert json.loads(shown(folder, as_json=True))["bandwidth"] == 1e9
    assert asked == ["cpu"], "the model itself has let go of its weights"


def test_guesses_are_told(folder):
    found = json.loads(shown(folder, as_json=True, speculate="ngram"))
    assert all(0 <= row["accepted"] <= row["drafted"] for row in found["rows"])
    by_draft = json.loads(shown(folder, as_json=True, speculate=str(folder), guesses=2))
    assert by_draft["rows"][0]["accepted"] == by_draft["rows"][0]["drafted"] > 0, "it drafts for itself"
    table = shown(folder, width=80, speculate=str(folder))
    assert "guesses" in table and "guesses" not in shown(folder)
    rows = [
        line
        for line in table.splitlines()
        if re.fullmatch(r" *\d+( +[\d,.]+){5} +\d+% +[\d,]+ of [\d,]+ *", line)
    ]
    assert len(rows) == 2, "every row is one line of a terminal"
    with pytest.raises(UserError, match="add --speculate"):
        shown(folder, guesses=3)


def test_a_table_for_people(folder):
    text = shown(folder)
    assert "parameters" in text and "GB/s" in text
    assert "token ms" in text and "limit" in text
    assert [line.split()[0] for line in text.splitlines() if line.rstrip().endswith("%")] == ["1", "4"]


def test_the_format_can_be_chosen(folder):
    assert json.loads(shown(folder, as_json=True, dtype="bfloat16"))["dtype"] == "bfloat16"
    assert json.loads(shown(folder, as_json=True, dtype="float32"))["dtype"] == "float32"


def test_what_does_not_fit_the_context_is_refused(folder):
    with pytest.raises(UserError, match="do not fit into the model's context of 128 tokens"):
        terminal.bench(folder, prompt=100, tokens=60)


def test_the_command_measures_one_to_32_requests(folder, capsys):
    arguments = [str(folder), "--prompt", "6", "--tokens", "3", "--repeats", "1", "--device", "cpu", "--json"]
    assert main(["bench", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in found["rows"]] == list(terminal.BATCHES) == [1, 2, 4, 8, 16, 32]

"""Machines by name, this one measured once, prices of one's own."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from modelwright.base.errors import ConfigError, UserError
from modelwright.planning import machines
from modelwright.planning.machines import (
    Prices,
    by_device_name,
    find_machine,
    known_machines,
    load_prices,
    this_machine,
)


@pytest.mark.parametrize("name", known_machines())
def test_every_machine_of_the_table_is_whole(name: str) -> None:
    machine = find_machine(name)
    assert machine.memory > 0 and machine.bandwidth > 0 and machine.rate("bfloat16") > 0 and machine.watts > 0
    assert machine.source


@pytest.mark.parametrize(("word", "name"), [("H100", "h100"), ("4090", "rtx-4090"), ("RTX 5090", "rtx-5090"),
                                            ("A100", "a100-80gb"), ("m3_max", "m3-max")])  # fmt: skip
def test_people_write_names_in_many_ways(word: str, name: str) -> None:
    assert find_machine(word).name == name


def test_an_unknown_machine_is_refused_with_a_hint() -> None:
    with pytest.raises(UserError, match="Did you mean 'h200'"):
        find_machine("h201")


def test_this_machine_says_where_others_were_at_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = asdict(replace(find_machine("l4"), name="here", source="a machine"))
    monkeypatch.setattr(machines, "_measure", lambda: (found, 0.5))
    assert this_machine().source == "a machine, while others were at work (it had 50% of the processors)"
    note = next((tmp_path / "modelwright" / "machines").glob("*.json"))
    note.write_text(note.read_text().replace('"watts"', '"power"'))  # of another version
    monkeypatch.setattr(machines, "_measure", lambda: (found, 1.0))
    assert this_machine().source == "a machine" and this_machine().watts == find_machine("l4").watts


def test_this_machine_is_measured_for_real(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(machines, "PROBE_SIZE", 256)
    here = this_machine()
    assert here.rate("float32") > 1e8 and here.bandwidth > 1e8 and here.memory > 1e8
    assert this_machine() == here


def test_prices_by_the_hour_or_by_the_socket(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text("currency: EUR\nper_kwh: 0.5\nper_hour: {h100: 2.0}\n")
    prices = load_prices(file)
    assert prices.of("h100", 7200, 8, 0.0) == 2.0 * 2 * 8
    assert prices.of("here", 7200, 1, 3000.0) == 1.5
    assert {*load_prices().per_hour} <= {*known_machines()}


@pytest.mark.parametrize("text", ["[1]", "per_hour: {h100: -1}", "per_hours: {}", "a: ["])
def test_wrong_prices_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError):
        load_prices(file)
    assert Prices().per_kwh > 0


@pytest.mark.parametrize(
    "name, key",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA H100 NVL", "h100-nvl"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "a100-40gb"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str, key: str) -> None:
    known = by_device_name(name)
    assert known is not None and known.name == key


def test_an_unknown_gpu_is_no_other_one() -> None:
    assert by_device_name("Voodoo 2 80GB") is None

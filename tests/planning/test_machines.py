"""Machines by name, this one measured once, prices of one's own."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from modelwright.base.errors import ConfigError, UserError
from modelwright.planning import machines
from modelwright.planning.machines import (
    Prices,
    by_device_name,
    find_machine,
    known_machines,
    load_prices,
    peak_rate,
    this_machine,
)


@pytest.mark.parametrize("name", known_machines())
def test_every_machine_of_the_table_is_whole(name: str) -> None:
    machine = find_machine(name)
    assert machine.memory > 0 and machine.bandwidth > 0 and machine.rate("bfloat16") > 0 and machine.watts > 0
    assert machine.source
    if machine.kind == "gpu":  # products in fp32 do not go through the units that multiply bf16
        assert 0 < machine.rates["float32"] < machine.rates["bfloat16"]
        assert machine.rates.get("fp8", math.inf) > 1.9 * machine.rates["bfloat16"]


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
        ("NVIDIA H200 NVL", "h200-nvl"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA A40", "a40"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA L40", "l40"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA GeForce RTX 4070", "rtx-4070"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx-6000-ada"),
        ("AMD Instinct MI300X", "mi300x"),
    ],
)
def test_a_gpu_is_known_by_its_drivers_name(name: str, key: str) -> None:
    known = by_device_name(name)
    assert known is not None and known.name == key


@pytest.mark.parametrize(
    "name",
    [
        "Voodoo 2 80GB",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3090 Ti",
        "NVIDIA GeForce RTX 4070 Ti SUPER",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM4-80GB MIG 3g.40gb",
        "NVIDIA H100 64GB HBM2",
        "NVIDIA GH200 144G HBM3e",
        "NVIDIA A10-24Q",
        "NVIDIA RTX A6000",
        "NVIDIA GB200",
    ],
)
def test_an_unknown_gpu_is_no_other_one(name: str) -> None:
    assert by_device_name(name) is None


def on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = replace(
        find_machine("l4"), name="here", rates={"float32": 2e13, "bfloat16": 1e14}, source="measured"
    )
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    monkeypatch.setattr(machines, "this_machine", lambda: measured)


def test_fp32_is_held_against_fp32_and_what_the_table_lacks_against_what_was_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_gpu("NVIDIA H100 80GB HBM3", monkeypatch)
    assert peak_rate("float32") == (67e12, find_machine("h100").source) and peak_rate("bfloat16")[0] == 989e12
    on_a_gpu("NVIDIA GeForce RTX 4090 Laptop GPU", monkeypatch)
    assert peak_rate("bfloat16") == (1e14, "measured")
    on_a_gpu("NVIDIA H100 80GB HBM3", monkeypatch)
    table = {"h100": {key: value for key, value in machines._table()["h100"].items() if key != "fp32"}}
    monkeypatch.setattr(machines, "_table", lambda: table)
    assert peak_rate("float32") == (2e13, "measured") and peak_rate("bfloat16")[0] == 989e12


def test_rates_are_of_random_numbers_and_of_fp32_proper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal numbers cost less power, and where bf16 is trained fp32 may be TF32 already."""
    seen: list[tuple[str, float]] = []
    honest = torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        seen.append((torch.get_float32_matmul_precision(), float(a.float().std())))
        return honest(a, b)

    monkeypatch.setattr(machines, "PROBE_SIZE", 64)
    monkeypatch.setattr(torch, "mm", watched)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        assert min(machines._rates("cpu").values()) > 0
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen and all(allowed == "highest" and 0.9 < spread < 1.1 for allowed, spread in seen)

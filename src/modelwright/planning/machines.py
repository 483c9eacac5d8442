"""What a training could run on: machines by name, and this one, measured.

`machines.yaml` holds the vendors' figures. This machine is measured: the rate of a large matrix product in
both formats and the bandwidth of its memory, once, and kept in the user's cache with when and by what
(planning/measuring.py). What training steps reach of that is measured apart (planning/trial_steps.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import Field

from modelwright.base.config import Config, validate
from modelwright.base.errors import ConfigError, UserError, did_you_mean
from modelwright.base.metrics import counted
from modelwright.base.resources import ASSUMED_WATTS_PER_CPU
from modelwright.base.run import machine
from modelwright.planning.measuring import best_seconds, disturbed, noted, watched

GIB = 2**30
COLUMNS = {"float32": "fp32", "bfloat16": "bf16", "fp8": "fp8"}
"""Format -> its column of rates in the table."""
NEUTRAL = {"nvidia", "amd", "geforce", "instinct", "pcie", "oam", "sxm", "sxm4", "sxm5", "hbm2e", "hbm3"}
"""Words of a driver's name that make no other device of it. Most others do: Ti, D, SUPER, Laptop, MIG."""
PROBE_SIZE = 2048
"""Side of the square matrices of the probe: 8 MiB in bf16, beyond the caches of one core."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A device and what feeds it."""

    name: str
    kind: str
    """"cpu", "gpu" or "mac"."""
    memory: float
    """Bytes that a program can use."""
    bandwidth: float
    """Bytes per second of that memory."""
    rates: Mapping[str, float]
    """FLOP/s of matrix products by format: "float32", "bfloat16", "fp8"."""
    watts: float
    step_rates: Mapping[str, Sequence[tuple[int, int, float]]] = field(default_factory=dict)
    """Format -> (width, context, FLOP/s of forward and backward) of training steps, where they were measured
    (planning/trial_steps.py)."""
    link: float = 0.0
    """Bytes per second to the other devices of a node, both directions together; 0: there are none."""
    source: str = ""
    """Where the figures are from."""

    def rate(self, dtype: str) -> float:
        """FLOP/s in a format; bf16's where it is not stated (Apple's state one for all)."""
        return self.rates.get(dtype) or self.rates["bfloat16"]


class Prices(Config):
    """What machines and electricity cost."""

    currency: str = "USD"
    as_of: str = ""
    per_kwh: float = Field(default=0.3, ge=0)
    """For machines without a price by the hour."""
    per_hour: dict[str, float] = {}
    """Machine -> price of an hour of one device."""

    def of(self, name: str, seconds: float, devices: int, energy_wh: float) -> float:
        """What a work costs: rented hours, or one's own electricity."""
        if name in self.per_hour:
            return self.per_hour[name] * devices * seconds / 3600
        return self.per_kwh * energy_wh / 1000


def load_prices(path: Path | None = None) -> Prices:
    """The shipped prices, or those of a file."""
    if path is None:
        text, where = (files("modelwright.planning") / "prices.yaml").read_text(encoding="utf-8"), "prices"
    else:
        text, where = path.read_text(encoding="utf-8"), str(path)
    try:
        settings: Any = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ConfigError(
            f"{where} holds a {type(settings).__name__}, expected per_kwh and per_hour: {{...}}"
        )
    prices = validate(Prices, settings, where)
    if negative := [name for name, price in prices.per_hour.items() if price < 0]:
        raise ConfigError(f"{where}: the price of {negative[0]} is below zero")
    return prices


@cache
def _table() -> dict[str, dict[str, Any]]:
    text = (files("modelwright.planning") / "machines.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def known_machines() -> tuple[str, ...]:
    """The names of the table."""
    return tuple(_table())


def find_machine(name: str) -> Machine:
    """A machine of the table ("H100", "rtx 4090", "4090"), or "here"."""
    word = name.strip().lower().replace(" ", "-").replace("_", "-")
    if word in ("here", "this", "auto"):
        return this_machine()
    table = _table()
    key = next((key for key in (word, f"rtx-{word}", f"{word}-80gb", f"{word}gb") if key in table), None)
    if key is None:
        raise UserError(
            f"no machine is known as '{name}': expected 'here' or one of the table."
            f"{did_you_mean(word, table)}"
        )
    row = table[key]
    rates = {name: row.get(column, 0) * 1e12 for name, column in COLUMNS.items()}
    return Machine(
        name=key,
        kind=row["kind"],
        memory=row["memory_gib"] * GIB,
        bandwidth=row["bandwidth"] * 1e9,
        rates={format: rate for format, rate in rates.items() if rate},
        watts=row["watts"],
        link=row.get("link", 0) * 1e9,
        source=row["source"],
    )


def this_machine(*, again: bool = False) -> Machine:
    """This machine, as it was measured; measured now where it never was, `again`, or where others were at
    work then and fewer are now."""
    note, share = noted("products", _measure, again=again)
    try:
        found = Machine(**note)
    except TypeError:  # a note of another version
        return this_machine(again=True)
    return replace(found, source=found.source + disturbed(share))


def peak_rate(dtype: str) -> tuple[float, str]:
    """FLOP/s of matrix products here at best, and where that is from: the vendor's figure of a GPU that the
    table knows, where it has one of this format, else what was measured."""
    known = by_device_name(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    best = known if known and dtype in known.rates else this_machine()
    return best.rate(dtype), best.source


def _measure() -> tuple[dict[str, Any], float]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    (rates, bandwidth), share = watched(lambda: (_rates(device), _bandwidth(device)))
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        name, memory, known = facts.name, facts.total_memory, by_device_name(facts.name)
        watts, link = (known.watts, known.link) if known else (300.0, 0.0)
        share = 1.0  # the processors only wait
    else:
        name, memory, link = machine()["processor"], _usable_memory(), 0.0
        watts = ASSUMED_WATTS_PER_CPU * (os.cpu_count() or 1)
    threads = f"{counted(torch.get_num_threads(), 'thread')}, torch {torch.__version__}"
    found = Machine(
        name="here",
        kind="gpu" if device == "cuda" else "cpu",
        memory=float(memory),
        bandwidth=bandwidth,
        rates=rates,
        watts=watts,
        link=link,
        source=f"{name}, measured {datetime.now(UTC):%Y-%m-%d}, {threads}",
    )
    return asdict(found), share


def by_device_name(name: str) -> Machine | None:
    """The machine of the table that a GPU is, by what its driver calls it ("NVIDIA H100 80GB HBM3"): every
    part of the key must be a word of the name, and the key with most parts wins. None where a word is left
    that may make another device of it: "RTX 4090 Laptop GPU", a part of an H100 (MIG), another memory."""
    words = {word for word in re.split(r"[^a-z0-9]+", name.lower()) if word}
    fitting = [key for key in known_machines() if words.issuperset(key.split("-"))]
    if not fitting:
        return None
    found = find_machine(max(fitting, key=lambda key: key.count("-")))
    left = words - {*found.name.split("-")} - NEUTRAL - {*_table()[found.name].get("also", ())}
    return found if left <= {f"{round(found.memory / GIB)}gb"} else None


def _rates(device: str) -> dict[str, float]:
    """Format -> FLOP/s of a square product; the best of a few. Of random numbers: products of equal ones draw
    less power, and a GPU that its power limits does them faster. In fp32 proper, whatever training allows."""
    size = PROBE_SIZE * (4 if device == "cuda" else 1)
    random, found = torch.Generator(device).manual_seed(0), dict[str, float]()
    allowed = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        a, b = (torch.randn(size, size, dtype=dtype, device=device, generator=random) for _ in range(2))
        found[name] = 2.0 * size**3 / best_seconds(partial(torch.mm, a, b), device)
    torch.set_float32_matmul_precision(allowed)
    return found


def _bandwidth(device: str) -> float:
    """Bytes per second of adding two tensors far beyond the caches: two read, one written."""
    size = 2**24 * (4 if device == "cuda" else 1)  # beside a model that is there already
    a, b, c = (torch.ones(size, device=device) for _ in range(3))
    return 3 * 4 * size / best_seconds(lambda: torch.add(a, b, out=c), device)


def read_bandwidth(size: int, device: str = "cpu") -> float:
    """Bytes per second of reading a buffer of `size` bytes over and over, as decoding reads its weights: from
    memory, and from a cache where one holds it. It is read as a matrix that multiplies a vector, in the
    format in which torch does that faster."""
    found = 0.0
    for dtype in (torch.float32, torch.bfloat16):
        columns = 2**14 // dtype.itemsize
        matrix = torch.ones(max(1, size // 2**14), columns, dtype=dtype, device=device)
        vector = torch.ones(columns, dtype=dtype, device=device)
        seconds = best_seconds(partial(torch.mv, matrix, vector), device)
        found = max(found, matrix.numel() * dtype.itemsize / seconds)
    return found


def _usable_memory() -> int:
    """Bytes of main memory, or what a container is limited to."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return min(physical, int(text)) if text.isdigit() else physical

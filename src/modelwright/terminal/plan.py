"""`modelwright plan`: forecasts as tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from modelwright.base.artifact import Cost
from modelwright.base.metrics import counted, size
from modelwright.planning.forecast import OF_REAL_STEPS, Forecast, StationForecast, compare, spent
from modelwright.planning.machines import Machine, find_machine
from modelwright.planning.pieces import way_of
from modelwright.planning.remedies import tuning_ways
from modelwright.planning.serving import FORMATS, cache_bytes, running_memory, tokens_per_second
from modelwright.planning.shape import Shape, find_shape
from modelwright.planning.sharding import choose_box, sharded
from modelwright.planning.tuning import METHODS, TuningBatch, tuning_memory
from modelwright.terminal.printable import printable
from modelwright.terminal.runs import duration

SENT_TO = {
    "shards": "to shards",
    "replicas": "to replicas",
    "tensor": "to tensor ways",
    "optimizer": "for Muon",
}
PART_NAMES = {"cache": "keys and values", "loss": "loss and logits", "process": "process or context"}
BARS = (0.10, 0.20)
"""What a forecast of memory, and of time, should be within."""


def seconds(time: float) -> str:
    """`1.25 s`, `310 ms`, `0.18 ms`."""
    if time >= 1:
        return f"{time:.3g} s"
    return f"{1000 * time:.0f} ms" if time >= 0.01 else f"{1000 * time:.2g} ms"


def count(number: float) -> str:
    """`8.03B`, `4.2M`, `512`."""
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:.0f}"


def show_forecast(forecast: Forecast, as_json: bool = False) -> None:
    """Print what each station will need, where its memory goes, and what would make it fit."""
    if as_json:
        print(json.dumps(forecast.model_dump(mode="json") | {"seconds": forecast.seconds}, indent=2))
        return
    console = _console()
    many = f"{forecast.devices} x " if forecast.devices > 1 else ""
    console.print(
        f"[bold]{printable(forecast.recipe)}[/] on {many}[bold]{forecast.machine}[/] "
        f"({size(forecast.machine_memory)}; {printable(forecast.machine_source)})"
    )
    console.print(_stations(forecast))
    trained = [station for station in forecast.stations if station.steps]
    if counted := [station for station in forecast.stations if station.steps or station.at_most]:
        title = "memory of a device" if many else "memory at the peak"
        console.print(_memory_parts(counted, title))
    if several := [station for station in trained if station.devices]:
        console.print(_exchanges(several))
    for station in trained:
        _say_remedies(console, station)
    for station in forecast.stations:
        for note in station.notes:
            console.print(f"[dim]{station.station}: {printable(note)}[/]", soft_wrap=True)
    sources = ", ".join(dict.fromkeys(station.about for station in trained))
    if trained:
        console.print(f"[dim]rate: of the machine's matrix products, in forward and backward ({sources}).[/]")
    price = f", {forecast.money:,.2f} {forecast.currency}" if forecast.money >= 0.005 else ""
    dated = f" (prices: {forecast.prices_as_of})" if forecast.prices_as_of else ""
    here = forecast.machine == "here" and OF_REAL_STEPS not in sources
    probe = " --probe measures steps." if here else ""
    paid = f"{forecast.energy_wh:,.1f} Wh at most{price}{dated}"
    console.print(f"In all [bold]{duration(forecast.seconds)}[/], {paid}.{probe}")


def _console() -> Console:
    return Console(highlight=False)


def _table(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _stations(forecast: Forecast) -> Table:
    table = _table("station", "model", "steps", "tokens", "FLOPs", "time", "rate", "memory", "fits")
    for one in forecast.stations:
        trains = one.steps > 0
        active = f" ({count(one.active_parameters)} active)"
        parameters = count(one.parameters) + (active if one.active_parameters < one.parameters else "")
        table.add_row(
            one.station,
            parameters if one.parameters else "",
            f"{one.steps:,}" if trains else "",
            count(one.tokens) if one.tokens else "",
            f"{one.flops:.2g}" if one.flops else "",
            duration(one.seconds),
            f"{one.efficiency:.0%}" if trains else "",
            size(one.peak_memory),
            "" if one.fits is None else _fits(one.fits),
        )
    return table


def _exchanges(stations: list[StationForecast]) -> Table:
    """What a device sends in a step of each training, and what of the step that takes."""
    names = list(dict.fromkeys(name for station in stations for name in station.sent))
    table = _table("sent in a step", *(station.station for station in stations))
    table.add_row("devices", *(station.devices for station in stations))
    for name in names:
        sent = (station.sent.get(name) for station in stations)
        table.add_row(SENT_TO[name], *(size(each) if each else "-" for each in sent))
    table.add_row("sending", *(seconds(station.sending_seconds) for station in stations))
    table.add_row("a step, with it", *(seconds(station.step_seconds) for station in stations))
    return table


def _memory_parts(stations: list[StationForecast], title: str) -> Table:
    names = list(dict.fromkeys(name for station in stations for name in station.memory))
    table = _table(title, *(station.station for station in stations))
    for name in names:
        cells = [size(station.memory[name]) if station.memory.get(name) else "-" for station in stations]
        table.add_row(PART_NAMES.get(name, name), *cells)
    return table


def _say_remedies(console: Console, station: StationForecast) -> None:
    if station.fits:
        return
    whom = f"on a device ({station.devices})" if station.devices else "on one device"
    console.print(
        f"[red]{station.station} does not fit[/] {whom}. What would help, each on top of those before:"
    )
    for number, remedy in enumerate(station.remedies, start=1):
        console.print(f"  {number}. {remedy['what']}: {size(remedy['bytes'])} ({remedy['effect']})")


def show_comparison(
    folder: Path, forecast: Forecast, before: bool, costs: Mapping[str, Cost], as_json: bool = False
) -> None:
    """Print what a run took beside what was forecast."""
    rows = compare(forecast, costs)
    if as_json:
        print(
            json.dumps({"forecast_before_the_run": before, "stations": [asdict(r) for r in rows]}, indent=2)
        )
        return
    if not rows:
        show_forecast(forecast)
        return
    console = _console()
    when = "made before it ran" if before else "made now: no plan.json was kept"
    console.print(f"[bold]{printable(str(folder))}[/] against its forecast ({when})")
    table = _table("station", "time", "forecast", "ratio", "peak memory", "forecast", "ratio")
    for row in rows:
        table.add_row(
            row.station,
            duration(row.seconds),
            duration(row.forecast_seconds),
            _ratio(row.seconds_ratio, BARS[1]),
            size(row.peak_memory),
            size(row.forecast_memory),
            "(as before)" if row.inherited else _ratio(row.memory_ratio, BARS[0]),
        )
    console.print(table)
    for row in rows:
        if row.at_most:
            console.print(f"{row.station}: {spent(row)}; its time is an upper bound too", soft_wrap=True)
    console.print("Memory is the most that the process held while a station worked.")


def _ratio(value: float, bar: float) -> str:
    colour = "green" if abs(value - 1) <= bar else "yellow"
    return f"[{colour}]{value:.2f}[/]"


def show_model(name: str, on: str, context: int, rows: int, as_json: bool = False) -> None:
    """Print what a model needs to run and to be fine-tuned, with the formulae."""
    shape = find_shape(name)
    machine = find_machine(on)
    running = [running_memory(shape, format, context, rows) for format in FORMATS]
    batch = TuningBatch(rows=rows, context=context)
    ways = tuning_ways(shape, batch, machine)
    if as_json:
        tuning = {m: {"bytes": needs, "fits": fits} for m, needs, fits in ways}
        found = {"shape": asdict(shape), "parameters": shape.parameters, "active": shape.active_parameters}
        found |= {"running": [asdict(r) | {"total": r.total} for r in running], "tuning": tuning}
        print(json.dumps(found | {"machine": machine.name, "context": context, "rows": rows}, indent=2))
        return
    console = _console()
    active = f", {count(shape.active_parameters)} active a token" if shape.experts else ""
    heads = f"{shape.heads}/{shape.kv_heads} heads of {shape.head_dim}"
    parameters = f"{count(shape.parameters)} parameters{active}"
    console.print(
        f"[bold]{printable(shape.name)}[/]: {parameters}; {counted(shape.layers, 'layer')}"
        f" x {shape.hidden}, {heads}. On [bold]{machine.name}[/], {size(machine.memory)}."
    )
    console.print(_running_table(shape, running, machine, context, rows))
    console.print(_tuning_table(shape, batch, ways, machine))
    console.print(
        f"[dim]KV cache: 2 x {shape.layers} layers x {shape.kv_size} x 2 bytes ="
        f" {size(cache_bytes(shape, 1))} a token. "
        "Tokens/s: at most, since weights and cache are read for each. Mixed: weights in fp32 and in 16 bit. "
        "State: gradients and AdamW, 12 bytes a parameter (6 in 16 bit); of adapters 16, weights included. "
        "QLoRA: 0.52 bytes a weight of the matrices. Activations: checkpointed. The framework takes 0.5 to 1 "
        "GiB more.[/]"
    )


def _running_table(shape: Shape, running: list[Any], machine: Machine, context: int, rows: int) -> Table:
    title = f"To run, {rows} x {context:,} tokens"
    table = _table("", "weights", "KV cache", "beside", "in all", "fits", "tokens/s", title=title)
    for row in running:
        speed = tokens_per_second(shape, row.format, context, machine)
        sizes = (size(row.weights), size(row.cache), size(row.beside), size(row.total))
        fits = row.total <= machine.memory
        table.add_row(row.format, *sizes, _fits(fits), f"< {speed:,.0f}" if fits else "-")
    return table


def _tuning_table(shape: Shape, batch: TuningBatch, ways: list[Any], machine: Machine) -> Table:
    title = f"To fine-tune, {batch.rows} x {batch.context:,} tokens, adapters of rank {batch.rank}, AdamW"
    table = _table("", "weights", "state", "activations", "logits", "in all", "fits", title=title)
    for method, needs, fits in ways:
        found = tuning_memory(shape, method, batch)
        state = found.gradients + found.optimizer + found.adapters
        sizes = (found.weights, state, found.activations, found.logits, needs)
        table.add_row(METHODS[method], *(size(each) for each in sizes), _fits(fits))
    return table


def _fits(yes: bool) -> str:
    return "[green]yes[/]" if yes else "[red]no[/]"


def show_sharding(
    name: str, on: str, devices: int, how: str, tensor: int, rows: int, context: int, as_json: bool = False
) -> None:
    """Print what each of many devices holds and sends when it trains a model in full, bf16, AdamW."""
    shape, machine = find_shape(name), find_machine(on)
    way_of(shape, tensor)  # which raises where a model cannot be cut so
    box = choose_box(devices, how, tensor)
    kinds = ("none", "selective", "full")
    found = {
        kind: sharded(shape, box, machine, rows=rows, context=context, checkpointing=kind) for kind in kinds
    }
    if as_json:
        cases = {k: asdict(v) | {"memory": v.memory, "seconds": v.seconds} for k, v in found.items()}
        print(json.dumps({"model": shape.name, "machine": machine.name, "checkpointing": cases}, indent=2))
        return
    console = _console()
    sides = f"{counted(box.replicas, 'replica')} x {counted(box.shards, 'shard')}"
    sides += f" x {counted(box.tensor, 'tensor-parallel way')}"
    title = f"[bold]{printable(shape.name)}[/] ({count(shape.parameters)})"
    console.print(
        f"{title} on {devices} x [bold]{machine.name}[/], {sides}; {rows} x {context:,} tokens on each reader"
    )
    table = _table("a device, by checkpointing", *kinds)
    figures = {
        "weights, gradients, AdamW": lambda s: size(s.state),
        "gathered weights": lambda s: size(s.gathered),
        "activations": lambda s: size(s.activations),
        "logits": lambda s: size(s.logits),
        "in all": lambda s: size(s.memory),
        "fits": lambda s: _fits(s.memory <= machine.memory),
        "sent a step, shards": lambda s: size(s.sent_shards),
        "sent a step, replicas": lambda s: size(s.sent_replicas),
        "sent a step, tensor": lambda s: size(s.sent_tensor),
        "arithmetic": lambda s: f"{s.arithmetic_seconds:,.2f} s",
        "communication": lambda s: f"{s.communication_seconds:,.2f} s",
        "tokens/s a device": lambda s: f"{rows * context / s.seconds / box.tensor:,.0f}",
    }
    for label, figure in figures.items():
        table.add_row(label, *(figure(found[kind]) for kind in kinds))
    console.print(table)
    console.print("[dim]torchtitan's published runs of 8B are met within 10 %, of 70B not: docs/plan.md.[/]")

"""A forecast of a recipe, station by station, as it is kept and as it is held against what came of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelwright.base.artifact import Cost
from modelwright.base.config import Config
from modelwright.planning.duration import Duration, Work, forecast_duration, step_seconds
from modelwright.planning.eight_bits import eight_bit_note
from modelwright.planning.exchange import Exchange, exchange
from modelwright.planning.machines import Machine, Prices
from modelwright.planning.memory import Memory, Training, training_memory
from modelwright.planning.remedies import remedies
from modelwright.planning.shape import Shape
from modelwright.planning.writing import Writing

FILE = "plan.json"
"""In a run directory: what was forecast before it ran."""
ROOM = 0.95
"""Share of a machine's memory that a training may fill: beyond it, the system starts to swap or to kill."""


OF_REAL_STEPS = "a few real steps of this shape"
"""What a forecast is about whose steps were rehearsed."""


class StationForecast(Config):
    """What one station will need. Seconds, bytes, tokens, FLOPs."""

    station: str
    about: str = ""
    """Where the figures are from."""
    settings: str = ""
    """Hash of what they were made for: the station's settings and those of the stations before it."""
    parameters: int = 0
    active_parameters: int = 0
    steps: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    efficiency: float = 0.0
    """Share of the machine's matmul rate; 0 where no model is trained."""
    memory: dict[str, float] = {}
    """Part -> bytes at the peak."""
    peak_memory: float = 0.0
    """Of the device with most, where there are several; `memory` likewise."""
    devices: str = ""
    """How several devices stand, "8 replicas x 8 shards"; "" for one."""
    sent: dict[str, float] = {}
    """To whom -> bytes that leave a device in a step."""
    step_seconds: float = 0.0
    """Of one update, with what is sent."""
    sending_seconds: float = 0.0
    """Of one update: what is sent, whether it passes behind arithmetic or not."""
    fits: bool | None = True
    """None where nobody looked: beside a GPU, most stations run in the host's memory, which is not known."""
    remedies: tuple[dict[str, Any], ...] = ()
    """What would make it fit, in order."""
    energy_wh: float = 0.0
    money: float = 0.0
    """For machines or electricity, and what is paid for tokens where that is in the same currency."""
    paid: float = 0.0
    """For tokens, in `paid_in`."""
    paid_in: str = ""
    notes: tuple[str, ...] = ()
    """What the figures rest on."""
    at_most: bool = False
    """Whether tokens, time and money are upper bounds: a model writes as much as it likes."""


class Forecast(Config):
    """A recipe's forecast on a machine."""

    recipe: str
    machine: str
    machine_source: str
    machine_memory: float
    devices: int = 1
    currency: str = "USD"
    prices_as_of: str = ""
    stations: tuple[StationForecast, ...] = ()

    @property
    def seconds(self) -> float:
        """All stations, one after the other."""
        return sum(station.seconds for station in self.stations)

    @property
    def money(self) -> float:
        """In `currency`."""
        return sum(station.money for station in self.stations)

    @property
    def energy_wh(self) -> float:
        """Of all stations."""
        return sum(station.energy_wh for station in self.stations)


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """What a few real steps came to."""

    step_seconds: float
    peak_memory: float
    """Bytes that a process of a station would hold."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A station's forecast and what it took."""

    station: str
    forecast_seconds: float
    seconds: float
    forecast_memory: float
    peak_memory: float
    inherited: bool
    """The peak is that of an earlier station of the same process, where the system cannot begin a new one."""
    at_most: bool = False
    """Whether the forecast is an upper bound."""
    forecast_tokens: int = 0
    tokens: int = 0
    forecast_paid: float = 0.0
    paid: float = 0.0
    """For tokens, in `paid_in`."""
    paid_in: str = ""

    @property
    def seconds_ratio(self) -> float:
        """Forecast over actual."""
        return self.forecast_seconds / self.seconds if self.seconds else float("inf")

    @property
    def memory_ratio(self) -> float:
        """Forecast over actual."""
        return self.forecast_memory / self.peak_memory if self.peak_memory else float("inf")


def training_station(
    station: str,
    shape: Shape,
    training: Training,
    work: Work,
    machine: Machine,
    prices: Prices,
    rehearsed: Rehearsed | None = None,
) -> StationForecast:
    """The forecast of a station that trains, on the devices of `training.box`."""
    memory = training_memory(shape, training)
    step = rehearsed.step_seconds if rehearsed else None
    duration = forecast_duration(shape, training, work, machine, step)
    # A rehearsal has no teacher and writes nothing: what these hold is counted.
    peak = rehearsed.peak_memory + memory.teacher + memory.answers if rehearsed else memory.total
    tokens = round(work.steps * training.step_tokens * work.share)
    box, own, sent = training.box, training.own, exchange(shape, training)
    energy = energy_wh(machine, duration.total, box.devices)
    return StationForecast(
        station=station,
        about=_about(duration, rehearsed),
        parameters=shape.parameters,
        active_parameters=shape.active_parameters,
        steps=work.steps,
        tokens=tokens,
        flops=_flops_per_token(shape, training) * tokens + (own.flops(shape) if own else 0.0),
        seconds=duration.total,
        efficiency=duration.efficiency,
        memory=_measured_parts(memory, peak) if rehearsed else memory.parts,
        peak_memory=peak,
        devices=box.describe() if box.devices > 1 else "",
        sent={name: size for name, size in asdict(sent).items() if size},
        step_seconds=step or step_seconds(shape, training, machine),
        sending_seconds=sum(sent.seconds(box, machine)),
        fits=peak <= ROOM * machine.memory,
        remedies=tuple(
            {"what": r.what, "setting": r.setting, "bytes": r.total, "effect": r.effect}
            for r in (
                remedies(shape, training, ROOM * machine.memory) if peak > ROOM * machine.memory else ()
            )
        ),
        energy_wh=energy,
        money=prices.of(machine.name, duration.total, box.devices, energy),
        notes=tuple(_notes(shape, training, duration, sent, machine)),
    )


def _notes(
    shape: Shape, training: Training, duration: Duration, sent: Exchange, machine: Machine
) -> Iterator[str]:
    """What the figures rest on, and what speaks against them."""
    if training.own:
        yield _own_note(training.own, duration)
    if said := eight_bit_note(training, machine):
        yield said
    box, units = training.box, training.batch.rows // training.rows_per_unit
    if training.accumulation % box.readers and units < box.readers:
        yield (
            f"a micro-batch has {units} {'rows' if training.rows_per_unit == 1 else 'pairs'} for the"
            f" {box.readers} devices that read different ones: {box.readers - units} compute for nothing. Set"
            f" accumulation to a multiple of {box.readers} (steps grow with it), or take fewer devices"
        )
    sending = sum(sent.seconds(box, machine))
    if sending > 0.5 * (step := step_seconds(shape, training, machine)):
        yield (
            f"sending takes {sending:.2g} s of a step of {step:.2g} s, behind arithmetic where it can: more"
            " rows on each device, or fewer devices to a copy (hsdp), send less for what is computed"
        )


def _own_note(own: Writing, duration: Duration) -> str:
    return (
        f"the model writes about {own.answers:,.0f} answers of at most {own.answer:,.0f} tokens itself:"
        f" {own.written:,} tokens and {duration.writing:,.0f} s at most, less where answers end earlier"
    )


def _flops_per_token(shape: Shape, training: Training) -> float:
    """Forward and backward of what is trained, and the forward pass of a teacher: the arithmetic that the
    data asks for, as a run counts it (model/flops.py)."""
    seen, teacher = training.batch.seen, training.teacher
    unread = (1 - training.supervised) * 2.0 * shape.vocab * shape.hidden
    own = 3 * (shape.forward_flops(seen) - unread)
    if training.frozen:
        own -= 2.0 * shape.matmul_weights - unread
    return own + (teacher.shape.forward_flops(seen) if teacher else 0.0)


def _about(duration: Duration, rehearsed: Rehearsed | None) -> str:
    if rehearsed:
        return OF_REAL_STEPS
    return "formula; rate of small trainings here" if duration.source == "trial" else "assumed efficiency"


def _measured_parts(memory: Memory, peak: float) -> dict[str, float]:
    """The parts as counted; what was measured beside them is the allocator's and the process's."""
    parts, beside = dict(memory.parts), memory.overhead + peak - memory.total
    return parts | {"allocator": max(0.0, beside), "process": memory.base + min(0.0, beside)}


def energy_wh(machine: Machine, seconds: float, devices: int = 1) -> float:
    """At full power all the time: an upper bound."""
    return machine.watts * devices * seconds / 3600


def other_station(
    station: str, seconds: float, memory: float, about: str, machine: Machine, prices: Prices
) -> StationForecast:
    """The forecast of a station that does not train: a throughput times what it reads."""
    energy = energy_wh(machine, seconds)
    return StationForecast(
        station=station,
        about=about,
        seconds=seconds,
        peak_memory=memory,
        memory={"process": memory},
        fits=memory <= ROOM * machine.memory,
        energy_wh=energy,
        money=prices.of(machine.name, seconds, 1, energy),
    )


def compare(forecast: Forecast, costs: Mapping[str, Cost]) -> list[Compared]:
    """Stations that are in both. A station's peak is its own, of a process that holds what earlier ones have
    left. Where a system knows none but the process's, the same figure comes again."""
    found: list[Compared] = []
    peak_before = 0.0
    for station in forecast.stations:
        cost = costs.get(station.station)
        if cost is None:
            continue
        inherited = cost.peak_memory_bytes == peak_before
        peak_before = max(peak_before, float(cost.peak_memory_bytes))
        found.append(
            Compared(
                station.station,
                station.seconds,
                cost.seconds,
                station.peak_memory,
                float(cost.peak_memory_bytes),
                inherited,
                station.at_most,
                station.tokens,
                cost.tokens,
                station.paid,
                cost.paid,
                station.paid_in,
            )
        )
    return found


def spent(row: Compared) -> str:
    """Tokens and money beside what was forecast of them, in words."""
    said = f"{row.tokens:,} tokens written, forecast at most {row.forecast_tokens:,}"
    money = f"; {row.paid:.4g} {row.paid_in} paid, forecast at most {row.forecast_paid:.4g}"
    return said + (money if row.paid or row.forecast_paid else "")

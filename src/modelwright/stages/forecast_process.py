"""What the process of a run holds of other stations while one works.

`modelwright run` lives its stations in one process. What they free goes back to the system between them
(base/resources.py), and this stays: modules, which are loaded for all stations before the first; what
libraries have built, such as kernels for the shapes that they met; and memory that a training has freed
between blocks that stay, which a later station fills again, but not to the last hole. A station that is run
by a command of its own needs none of it. Measured with `modelwright run quickstart` on Linux with glibc,
2026-11-24: its nine stations, each against a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelwright.planning.forecast import ROOM, StationForecast
from modelwright.planning.memory import MIB

PART = "other stations"
"""The name of it among the parts of memory."""
TORCH = 280 * MIB
"""In a station that only handles text: torch, and all that stations with a model load."""
MODULES = 50 * MIB
"""In a station with a model: modules of the others."""
TEXT = 105 * MIB
"""These, and what the stations that handle text have left."""
TRAINED = 175 * MIB
"""In a training: the same, and what libraries have built for an earlier one."""
HOLES = 445 * MIB
"""In a station that trains nothing: the same, and the holes that trainings have left."""
TEXT_STATIONS = ("prepare", "tokenize")


def in_one_process(stations: Sequence[StationForecast], memory: float) -> tuple[StationForecast, ...]:
    """The stations of a recipe, each with what its process holds of the others; `memory`: of the machine."""
    if len(stations) < 2:
        return tuple(stations)
    return tuple(
        _beside(station, held, memory) for station, held in zip(stations, _held(stations), strict=True)
    )


def _held(stations: Sequence[StationForecast]) -> Iterator[float]:
    text = trained = False
    models = any(station.station not in TEXT_STATIONS for station in stations)
    for station in stations:
        if station.station in TEXT_STATIONS:
            yield TORCH if models else 0.0
            text = True
        elif trained:
            yield TRAINED if station.steps else HOLES
        else:
            yield TEXT if text else MODULES
        trained = trained or bool(station.steps)


def _beside(station: StationForecast, held: float, memory: float) -> StationForecast:
    peak = station.peak_memory + held
    fits = station.fits and peak <= ROOM * memory
    parts = {**station.memory, PART: held}
    return station.model_copy(update={"memory": parts, "peak_memory": peak, "fits": fits})

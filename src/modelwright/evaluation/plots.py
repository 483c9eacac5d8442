"""Plots as SVG text: no library, no script, the page's own colours, the same bytes for the same data.

Colours come from classes (`.s1`, `.s2`, ... in the page's style), so one picture serves light and dark.
All text is escaped here, since an SVG is put into the page as it stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

MARKS = ("circle", "square", "diamond", "triangle", "ring")
"""Shapes beside colours, so that a model is told apart without seeing colour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A curve: points (x, y) in order of x."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    """Draw the points themselves as well."""
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high) in order of x: what the curve is uncertain by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dot:
    """A value with its interval, for one model (its place in the list of models)."""

    model: int
    name: str
    mean: float
    low: float
    high: float


WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 24, 30, 44
MARKED = 10
"""Points that have marks of their own on a logarithmic axis, at most."""


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    title: str,
    *,
    linear: bool = False,
    factors: bool = False,
) -> str:
    """Curves over a linear x and a logarithmic y, since losses fall by factors, or a `linear` one from 0.
    With `factors` x (above 0) is logarithmic too, and marked where there are points, if these are few."""
    lines = [line for line in lines if any(y > 0 for _, y in line.points)]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points if linear or y > 0]
    ys += [high for line in lines for _, _, high in line.band]
    x_high = max(max(xs), 1e-9)
    x_ticks = sorted(set(xs)) if factors else _ticks(x_high)
    x_scale = math.log if factors else float
    x_start = x_scale(x_ticks[0])
    if factors and len(x_ticks) > MARKED:
        x_ticks = [tick for tick in _log_ticks(x_ticks[0], x_high) if x_ticks[0] <= tick <= x_high]
    x_range = max(x_scale(x_high) - x_start, 1e-9)
    y_ticks = _ticks(max(ys)) if linear else _log_ticks(min(ys), max(ys))
    scale = float if linear else math.log
    low, high = scale(min(y_ticks[0], min(ys))), scale(max(y_ticks[-1], max(ys)))

    names = [line.name for line in lines]
    legend, room = _legend(names) if names != [y_label] else ("", 0)
    top, bottom = TOP + room, HEIGHT + room - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x_scale(x) - x_start) / x_range
        return across, top + (bottom - top) * (high - scale(y)) / max(high - low, 1e-9)

    parts = [_open(WIDTH, HEIGHT + room, title)]
    for tick in y_ticks:
        _, y = place(x_high, tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in x_ticks:
        x, _ = place(tick, max(ys))
        name = f"{tick:,g}" if factors and tick < 1e6 else short(tick)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{name}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>')
    across, up = escape(x_label), escape(y_label) + ("" if linear else ", logarithmic")
    parts.append(
        f'<text class="label" x="{WIDTH - RIGHT}" y="{bottom + BOTTOM - 6}" text-anchor="end">{across}</text>'
        f'<text class="label" x="4" y="{room + 12}">{up}</text>'
    )
    for number, line in enumerate(lines, 1):
        places = [place(x, y) for x, y in line.points if linear or y > 0]
        if line.band:
            edge = [*((x, low) for x, low, _ in line.band), *((x, high) for x, _, high in line.band[::-1])]
            around = " ".join("{:.1f},{:.1f}".format(*place(x, y)) for x, y in edge)
            parts.append(f'<polygon class="band s{number}" points="{around}"/>')
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline class="curve s{number}" points="{path}"/>')
        if line.dots or len(places) == 1:  # of a single point there is no line to be seen
            parts += [
                f'<circle class="fill s{number}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in places
            ]
    return "".join(parts) + legend + "</svg>"


def _legend(names: Sequence[str]) -> tuple[str, int]:
    """(the curves' names, the height they take): beside the plot's label where they have room, else in two
    columns above it, never over the curves."""
    widths = [_KEY + 6.6 * len(name) for name in names]  # about what 12 px letters take
    left = WIDTH - RIGHT - sum(widths)
    places, room = [(left + sum(widths[:number]), 8) for number in range(len(names))], 0
    if left < WIDTH * 0.4:
        places = [(LEFT + number % 2 * WIDTH / 2, 8 + 20 * (number // 2)) for number in range(len(names))]
        room = 20 * math.ceil(len(names) / 2)
    keys = "".join(
        f'<line class="curve s{number}" x1="{x:.1f}" x2="{x + 24:.1f}" y1="{y}" y2="{y}"/>'
        f'<text x="{x + 32:.1f}" y="{y + 4}">{escape(name)}</text>'
        for number, (name, (x, y)) in enumerate(zip(names, places, strict=True), 1)
    )
    return keys, room


_KEY = 48
"""Width of a legend's stroke with the gaps around it."""


def interval_chart(rows: Sequence[tuple[str, Sequence[Dot]]], title: str) -> str:
    """A row for each suite, a dot with its interval for each model, on one axis from 0 to 100 %."""
    rows = [(name, dots) for name, dots in rows if dots]
    if not rows:
        return ""
    left, step, gap = 190, 13, 14
    height = TOP + 28 + sum(step * len(dots) + gap for _, dots in rows)
    parts = [_open(WIDTH, height, title)]
    scale = WIDTH - left - RIGHT - 10

    def across(share: float) -> float:
        return left + scale * min(1.0, max(0.0, share))

    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = across(tick)
        parts.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - 26}"/>'
            f'<text x="{x:.1f}" y="{height - 8}" text-anchor="middle">{tick:.0%}</text>'
        )
    y = TOP + gap
    for name, dots in rows:
        middle = y + step * (len(dots) - 1) / 2
        parts.append(
            f'<text x="{left - 12}" y="{middle + 4:.1f}" text-anchor="end">{escape(name[:28])}</text>'
        )
        for dot in dots:
            parts.append(_interval(dot, across, y))
            y += step
        y += gap
    return "".join(parts) + "</svg>"


def _interval(dot: Dot, across: Callable[[float], float], y: float) -> str:
    words = f"{dot.name}: {dot.mean:.1%}, 95 % interval {dot.low:.1%} to {dot.high:.1%}"
    return (
        f'<g class="s{dot.model + 1}"><title>{escape(words)}</title>'
        f'<line class="whisker" x1="{across(dot.low):.1f}" x2="{across(dot.high):.1f}" y1="{y}" y2="{y}"/>'
        f"{mark(dot.model, across(dot.mean), y)}</g>"
    )


def histogram(bins: Sequence[tuple[str, float]], x_label: str, y_label: str, title: str) -> str:
    """A column for each (name, count), the count above it, on a linear axis."""
    most = max((count for _, count in bins), default=0)
    if most <= 0:
        return ""
    height, bottom = 240, 240 - BOTTOM
    step = (WIDTH - 2 * RIGHT) / len(bins)
    wide = min(step * 0.8, 64)
    parts = [_open(WIDTH, height, title)]
    for number, (name, count) in enumerate(bins):
        middle = RIGHT + step * (number + 0.5)
        tall = (bottom - TOP - 16) * count / most
        parts.append(
            f'<g class="s2"><title>{escape(name)}: {count:,}</title>'
            f'<rect class="fill" x="{middle - wide / 2:.1f}" y="{bottom - tall:.1f}"'
            f' width="{wide:.1f}" height="{tall:.1f}"/></g>'
            f'<text x="{middle:.1f}" y="{bottom - tall - 5:.1f}" text-anchor="middle">{short(count)}</text>'
            f'<text x="{middle:.1f}" y="{bottom + 17}" text-anchor="middle">{escape(name)}</text>'
        )
    parts.append(
        f'<line class="axis" x1="{RIGHT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        f'<text class="label" x="{WIDTH - RIGHT}" y="{height - 6}" text-anchor="end">{escape(x_label)}</text>'
        f'<text class="label" x="4" y="12">{escape(y_label)}</text>'
    )
    return "".join(parts) + "</svg>"


def mark(model: int, x: float, y: float) -> str:
    """The shape that stands for a model, centred on (x, y)."""
    shape = MARKS[model % len(MARKS)]
    if shape == "square":
        return f'<rect class="fill" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    if shape == "diamond":
        return f'<path class="fill" d="M{x:.1f},{y - 5.5:.1f}l5.5,5.5l-5.5,5.5l-5.5,-5.5z"/>'
    if shape == "triangle":
        return f'<path class="fill" d="M{x:.1f},{y - 5:.1f}l5,9h-10z"/>'
    if shape == "ring":
        return f'<circle class="ring" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    return f'<circle class="fill" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def key(model: int) -> str:
    """The mark of a model as a little picture for legends and table heads."""
    return f'<svg class="key s{model + 1}" viewBox="0 0 14 14" aria-hidden="true">{mark(model, 7, 7)}</svg>'


def short(value: float) -> str:
    """1200000 -> "1.2M"."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _open(width: int, height: float, title: str) -> str:
    words = escape(title, quote=True)
    return f'<svg class="plot" viewBox="0 0 {width} {height:g}" role="img" aria-label="{words}">'


def _ticks(high: float) -> list[float]:
    """About five round numbers from 0 to `high`."""
    raw = high / 5
    size = 10 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    return [step * i for i in range(int(high / step * 1.0001) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers from just below `low` to just above `high`: the coarsest row that gives four."""
    ticks: list[float] = []
    for factors in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(1 + i / 10 for i in range(90))):
        powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
        known = [factor * 10.0**power for power in powers for factor in factors]
        below = [tick for tick in known if tick <= low][-1]
        above = next(tick for tick in known if tick >= high)
        ticks = [tick for tick in known if below <= tick <= above]
        if len(ticks) >= 4:
            break
    return ticks

"""Measured points and fitted curves on two logarithmic axes, as SVG text in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from modelwright.evaluation.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    _log_ticks,  # pyright: ignore[reportPrivateUsage]
    _open,  # pyright: ignore[reportPrivateUsage]
    mark,
    short,
)

Place = Callable[[float, float], tuple[float, float]]
COLOURS = 5
LEGEND = 120
"""Width left of the edge where the names stand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points, a curve, and at most one interval, all in one colour with one mark."""

    name: str
    points: Sequence[tuple[float, float]] = ()
    curve: Sequence[tuple[float, float]] = ()
    whisker: tuple[float, float, float] | None = None
    """(x, low, high)."""


def loglog_chart(series: Sequence[Series], x_label: str, y_label: str, title: str) -> str:
    """All coordinates must be positive."""
    drawn = [pair for each in series for pair in (*each.points, *each.curve)]
    drawn += [(x, y) for each in series if each.whisker for x, *ys in (each.whisker,) for y in ys]
    if not drawn:
        return ""
    x_low, x_high = min(x for x, _ in drawn), max(x for x, _ in drawn)
    y_ticks = _log_ticks(min(y for _, y in drawn), max(y for _, y in drawn))
    across, up = math.log(x_high / x_low) or 1.0, math.log(y_ticks[-1] / y_ticks[0]) or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        right = LEFT + 10 + (WIDTH - LEFT - RIGHT - LEGEND - 20) * math.log(x / x_low) / across
        return right, TOP + (HEIGHT - TOP - BOTTOM) * (1 - math.log(y / y_ticks[0]) / up)

    parts = [_open(WIDTH, HEIGHT, title)]
    for tick in y_ticks:
        y = place(x_low, tick)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT - LEGEND}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
    for tick in _log_ticks(x_low, x_high):
        if x_low <= tick <= x_high:
            x, y = place(tick, y_ticks[0])[0], HEIGHT - BOTTOM + 18
            parts.append(f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{short(tick)}</text>')
    parts.append(
        f'<text class="label" x="{WIDTH - RIGHT}" y="{HEIGHT - 6}" text-anchor="end">{escape(x_label)}</text>'
        f'<text class="label" x="4" y="12">{escape(y_label)}</text>'
    )
    for number, each in enumerate(series):
        parts.append(f'<g class="s{number % COLOURS + 1}">{_drawn(each, number, place)}</g>')
    return "".join(parts) + "</svg>"


def _drawn(each: Series, number: int, place: Place) -> str:
    parts: list[str] = []
    if each.curve:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*pair) for pair in each.curve))
        parts.append(f'<polyline class="curve" points="{path}"/>')
    if each.whisker:
        x, low, high = each.whisker
        (left, bottom), (_, top) = place(x, low), place(x, high)
        parts.append(
            f'<line class="whisker" x1="{left:.1f}" x2="{left:.1f}" y1="{bottom:.1f}" y2="{top:.1f}"/>'
        )
        for y in (bottom, top):
            parts.append(
                f'<line class="whisker" x1="{left - 5:.1f}" x2="{left + 5:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
    parts += [mark(number, *place(*pair)) for pair in each.points]
    x, y = WIDTH - RIGHT - LEGEND + 14, TOP + 18 * (number + 0.5)
    parts.append(f'{mark(number, x, y)}<text x="{x + 12}" y="{y + 4}">{escape(each.name)}</text>')
    return "".join(parts)

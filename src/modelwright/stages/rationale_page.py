"""The study of rationales as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from markupsafe import Markup

from modelwright.evaluation.page import template
from modelwright.evaluation.plots import Line, line_chart, short
from modelwright.stages.rationale_findings import ARMS, Findings, in_words, name_of

COLUMNS = ("taught, asked", "problems", "right", "interval", "less answers alone")


def rows_of(findings: Findings) -> list[list[str]]:
    """Every kind of student: accuracy, and every cost."""
    rows: list[list[str]] = []
    for point in findings.points:
        against = "" if point.against is None else "{:+.1%} [{:+.1%}, {:+.1%}]".format(*point.against)
        cells = [name_of(point.arm), f"{point.problems:,}", f"{point.accuracy:.1%}"]
        cells += [f"{point.low:.1%} to {point.high:.1%}", against]
        rows.append([*cells, *(short(value) for name, value in point.costs.items() if name != "problems")])
    return rows


def columns(findings: Findings) -> list[str]:
    """The head of that table."""
    return [*COLUMNS, *(name for name in findings.currencies if name != "problems")]


def table(findings: Findings) -> list[str]:
    """The same as lines of text."""
    rows = [columns(findings), *rows_of(findings)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def render(findings: Findings) -> str:
    """The page."""
    savings = [
        [name_of(arm), f"{size:,}", currency, in_words(saving)]
        for arm, size, currency, saving in findings.savings
    ]
    return template("modelwright.stages", "rationale_study.html.jinja").render(
        findings=findings,
        sentences=list(findings.sentences()),
        charts=[Markup(chart) for chart in _charts(findings)],
        columns=columns(findings),
        rows=rows_of(findings),
        savings=savings,
    )


def _charts(findings: Findings) -> list[str]:
    """Accuracy against each cost, a curve with its band for each way."""
    charts: list[str] = []
    for currency in findings.currencies:
        lines: list[Line] = []
        for arm in ARMS:
            points = sorted(
                (point for point in findings.points if point.arm == arm),
                key=lambda point: point.costs[currency],
            )
            places = [(point.costs[currency], point.accuracy) for point in points]
            band = [(point.costs[currency], point.low, point.high) for point in points]
            lines.append(Line(name=name_of(arm), points=places, dots=True, band=band))
        title = f"Accuracy against cost: {currency}"
        charts.append(line_chart(lines, currency, "right", title, linear=True, factors=True))
    return charts

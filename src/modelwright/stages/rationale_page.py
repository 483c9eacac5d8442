"""The study of rationales as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from markupsafe import Markup

from modelwright.evaluation.page import template
from modelwright.evaluation.plots import Line, line_chart, short
from modelwright.stages.rationale_findings import ARMS, REFERENCE, Findings, amount, name_of, verdict

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


def savings(findings: Findings) -> dict[str, list[tuple[str, list[tuple[str, str]]]]]:
    """Of the largest amounts of answers alone: for each cost what each way saves, and what that says
    of the claim."""
    made: dict[str, list[tuple[str, list[tuple[str, str]]]]] = {}
    for size in findings.told:
        rows: dict[str, list[tuple[str, str]]] = {name: [] for name in findings.currencies}
        for _, of, currency, saving in findings.savings:
            if of == size:
                rows[currency].append((amount(saving), verdict(saving)))
        base = findings.reference(size)
        title = (
            f"{base.accuracy:.1%} [{base.low:.1%}, {base.high:.1%}], as answers alone with {size:,} problems"
        )
        made[title] = list(rows.items())
    return made


def render(findings: Findings) -> str:
    """The page."""
    return template("modelwright.stages", "rationale_study.html.jinja").render(
        findings=findings,
        ways=[name_of(arm) for arm in ARMS if arm != REFERENCE],
        savings=savings(findings),
        charts=[Markup(chart) for chart in _charts(findings)],
        columns=columns(findings),
        rows=rows_of(findings),
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

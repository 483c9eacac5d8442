"""The study of averages as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from markupsafe import Markup

from modelwright.evaluation.page import template
from modelwright.evaluation.plots import Line, line_chart
from modelwright.stages.averaging_findings import LAST, Findings, ends

COLUMNS = (
    "schedule",
    "average",
    "bits/byte",
    "interval",
    "against its last weights",
    "against the reference",
)


def rows_of(findings: Findings, tokens: int) -> list[list[str]]:
    """The table of one length of run."""
    return [
        [
            arm.schedule,
            arm.average,
            f"{arm.value.mean:.4f}",
            f"{arm.value.low:.4f} to {arm.value.high:.4f}",
            ends(arm.gained),
            ends(arm.against),
        ]
        for arm in findings.arms
        if arm.tokens == tokens
    ]


def table(findings: Findings) -> list[str]:
    """The longest runs as lines of text."""
    rows = [list(COLUMNS), *rows_of(findings, findings.horizons[-1])]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def render(findings: Findings) -> str:
    """The page."""
    return template("modelwright.stages", "averaging_study.html.jinja").render(
        findings=findings,
        sentences=list(findings.sentences()),
        by_length=Markup(_by_length(findings)),
        by_half_life=Markup(_by_half_life(findings)),
        columns=COLUMNS,
        tables={tokens: rows_of(findings, tokens) for tokens in findings.horizons},
    )


def _by_length(findings: Findings) -> str:
    """Last weights of each schedule, and the best average of the one that never lowers its rate."""
    lines: list[Line] = []
    schedules = list(dict.fromkeys(row.schedule for row in findings.rows))
    for schedule in schedules:
        arms = [arm for arm in findings.arms if (arm.schedule, arm.average) == (schedule, LAST)]
        points = [(float(arm.tokens), arm.value.mean) for arm in arms]
        lines.append(Line(name=schedule, points=points, dots=True))
    if "constant" in schedules:
        best = [(float(t), findings.best("constant", t).value.mean) for t in findings.horizons]
        lines.append(Line(name="constant, averaged", points=best, dots=True))
    return line_chart(lines, "tokens", "bits per byte", "Bits per byte by length of run", factors=True)


def _by_half_life(findings: Findings) -> str:
    """Bits per byte of the exponential averages over their half-life, for each schedule."""
    lines: list[Line] = []
    for schedule in dict.fromkeys(row.schedule for row in findings.rows):
        points = sorted(
            (float(arm.average.removeprefix("ema ")), arm.value.mean)
            for arm in findings.arms
            if arm.schedule == schedule
            and arm.average.startswith("ema ")
            and arm.tokens == findings.horizons[-1]
        )
        lines.append(Line(name=schedule, points=points, dots=True))
    title = "Exponential averages of the longest runs, by half-life"
    return line_chart(lines, "half-life, part of the run", "bits per byte", title, factors=True)

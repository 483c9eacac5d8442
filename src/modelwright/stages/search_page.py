"""A search as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from markupsafe import Markup

from modelwright.evaluation.page import duration, template
from modelwright.evaluation.plots import Line, line_chart
from modelwright.stages.search_findings import Findings

COLUMNS = ("learning rate", "rank", "held-out loss", "interval", "above the best", "verdict", "took")


def rows_of(findings: Findings) -> list[list[str]]:
    """The table, the best trial first."""
    return [
        [
            f"{row.trial.learning_rate:g}",
            str(row.trial.rank or "-"),
            f"{row.loss.mean:.4f}",
            f"{row.loss.low:.4f} to {row.loss.high:.4f}",
            f"{row.against_best.mean:+.4f}" if row.against_best else "-",
            row.verdict,
            duration(row.trial.seconds),
        ]
        for row in findings.rows
    ]


def table(findings: Findings) -> list[str]:
    """The same as lines of text."""
    rows = [list(COLUMNS), *rows_of(findings)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def render(findings: Findings) -> str:
    """The page."""
    return template("modelwright.stages", "search.html.jinja").render(
        sentences=list(findings.sentences()),
        chart=Markup(_chart(findings)),
        columns=COLUMNS,
        rows=rows_of(findings),
    )


def _chart(findings: Findings) -> str:
    """Loss over learning rate, a line for each rank."""
    lines: list[Line] = []
    for rank in sorted({row.trial.rank or 0 for row in findings.rows}):
        points = sorted(
            (row.trial.learning_rate, row.loss.mean) for row in findings.rows if (row.trial.rank or 0) == rank
        )
        lines.append(Line(name=f"rank {rank}" if rank else "all weights", points=points, dots=True))
    return line_chart(lines, "learning rate", "nats a token", "Held-out loss", factors=True)

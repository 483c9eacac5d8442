"""The ladder as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from modelwright.evaluation.loglog import Series, loglog_chart
from modelwright.evaluation.page import template
from modelwright.evaluation.plots import short
from modelwright.stages.scale_findings import Findings, Measured, Verdict

Loss = Callable[[float, float], float]
COLUMNS = ("run", "N", "tokens", "FLOPs", "nats/token", "law", "off", "bits/byte")


def table(findings: Findings, verdict: Verdict) -> list[str]:
    """Runs and law as lines of text."""
    rows = [list(COLUMNS), *_rows(findings, verdict)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    found = ", ".join(f"{n} {v.value:.3g} [{v.low:.3g}, {v.high:.3g}]" for n, v in findings.law.items())
    return [*lines, "", f"L = E + A / N^alpha + B / D^beta: {found}", *findings.notes]


def _rows(findings: Findings, verdict: Verdict) -> list[list[str]]:
    law = findings.bootstrap.fit.law
    rows: list[list[str]] = []
    for run in (*findings.runs, verdict.measured):
        said = law.loss(run.parameters, run.tokens)
        cells = [short(run.parameters), short(run.tokens), f"{run.flops:.2e}", f"{run.nats:.4f}"]
        cells += [
            f"{said:.4f}",
            f"{run.nats / said - 1:+.2%}",
            f"{run.bits_per_byte:.4f}",
        ]
        rows.append([run.name, *cells])
    return rows


def render(findings: Findings, verdict: Verdict, count: str, confidence: float) -> str:
    """The page."""
    page = template("modelwright.stages", "scale.html.jinja")
    return page.render(
        findings=findings,
        verdict=verdict,
        words=verdict.in_words(confidence),
        compute=Markup(_by_compute(findings, verdict)),
        sizes=Markup(_by_size(findings)),
        columns=COLUMNS,
        rows=_rows(findings, verdict),
        count=count,
        confidence=confidence,
    )


def _by_compute(findings: Findings, verdict: Verdict) -> str:
    """Loss over FLOPs, a colour for each size."""
    law, shown = findings.bootstrap.fit.law, [*findings.runs, verdict.measured]
    low, high = min(run.flops for run in shown) * 0.8, verdict.measured.flops * 1.3
    series: list[Series] = []
    for rung in dict.fromkeys(run.rung for run in shown):
        runs = [run for run in shown if run.rung == rung]
        curve = [
            (flops, law.loss(runs[0].parameters, flops / runs[0].flops_per_token))
            for flops in np.geomspace(low, high, 40).tolist()
        ]
        last = runs[0] is verdict.measured
        whisker = (runs[0].flops, verdict.forecast.low, verdict.forecast.high) if last else None
        points = [(run.flops, run.nats) for run in runs]
        series.append(Series(name=_label(runs[0]), points=points, curve=curve, whisker=whisker))
    return loglog_chart(series, "training FLOPs", "nats per token", "Loss against compute, by size")


def _label(run: Measured) -> str:
    return f"{run.rung}, {short(run.parameters)}"


def _by_size(findings: Findings) -> str:
    """Loss over N, a colour for each cost."""
    law, runs = findings.bootstrap.fit.law, findings.runs
    sizes = sorted({run.parameters for run in runs})
    series: list[Series] = []
    for level in sorted({run.level for run in runs}):
        same = [run for run in runs if run.level == level]
        points = [(float(run.parameters), run.nats) for run in same]
        curve = _at_cost(same, sizes, law.loss)
        series.append(Series(name=f"{same[0].flops:.1e}", points=points, curve=curve))
    return loglog_chart(series, "parameters", "nats per token", "Loss by size, at equal cost")


def _at_cost(same: Sequence[Measured], sizes: Sequence[float], loss: Loss) -> list[tuple[float, float]]:
    """The law along runs of one cost: FLOPs per token are interpolated between the sizes that were run."""
    known = sorted({run.parameters: run.flops_per_token for run in same}.items())
    logs = np.log(np.array(known, dtype=float))
    curve: list[tuple[float, float]] = []
    for size in np.geomspace(sizes[0], sizes[-1], 40).tolist():
        per_token = float(np.exp(np.interp(np.log(size), logs[:, 0], logs[:, 1])))
        curve.append((size, loss(size, same[0].flops / per_token)))
    return curve

"""The study of vocabularies as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from markupsafe import Markup

from modelwright.evaluation.page import template
from modelwright.evaluation.plots import Line, line_chart
from modelwright.stages.study_findings import Findings, Language, Size

COLUMNS: dict[str, Callable[[Size], str]] = {
    "ids": lambda s: f"{s.vocab_size:,}",
    "bytes/token": lambda s: f"{s.fertility.bytes_per_token:.3f}",
    "tokens/word": lambda s: f"{s.fertility.tokens_per_word:.3f}",
    "coverage": lambda s: f"{s.fertility.coverage:.2%}",
    "unused": lambda s: f"{s.unused:,}",
    "embedding": lambda s: f"{s.embedding_parameters / 1e6:.2f}M",
    "of target": lambda s: f"{s.embedding_share:.1%}",
    "bits/byte": lambda s: "" if s.bits_per_byte is None else f"{s.bits_per_byte:.4f}",
    "Gini": lambda s: "" if s.gini is None else f"{s.gini:.3f}",
    "worst/median": lambda s: "" if s.worst_over_median is None else f"{s.worst_over_median:.2f}",
}
LANGUAGE_COLUMNS: dict[str, Callable[[Language], str]] = {
    "language": lambda r: r.name,
    "premium": lambda r: f"{r.premium:.2f}",
    "tokens/word": lambda r: f"{r.fertility.tokens_per_word:.2f}",
    "tokens/character": lambda r: f"{r.fertility.tokens_per_character:.2f}",
    "bytes/token": lambda r: f"{r.fertility.bytes_per_token:.2f}",
    "coverage": lambda r: f"{r.fertility.coverage:.1%}",
}
SHOWN = 15
"""Languages at each end of the page's list; study.json has all."""


def table(findings: Findings) -> list[str]:
    """The sizes in columns, as lines of text."""
    rows = [list(COLUMNS), *([show(size) for show in COLUMNS.values()] for size in findings.sizes)]
    widths = [max(len(row[place]) for row in rows) for place in range(len(COLUMNS))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def render(findings: Findings, depth: int) -> str:
    """The page; `depth` is the number of layers of the model that the vocabulary is for."""
    chosen = findings.recommendation.vocab_size
    sizes = [
        ([show(size) for show in COLUMNS.values()], size.vocab_size == chosen) for size in findings.sizes
    ]
    reasons = "".join(f"<p>{escape(reason)}</p>" for reason in findings.recommendation.reasons)
    body = (
        f"<h1>How large a vocabulary: {chosen:,} ids</h1>{reasons}"
        f"<h2>Sizes</h2>{_table(list(COLUMNS), sizes)}"
        '<p class="soft">On held-out text. Coverage: share of the text in tokens of whole characters. '
        f"Unused: tokens that do not occur in it. Embedding: for a target of {depth} layers.</p>"
        f"{_plots(findings)}{_languages(findings, chosen)}"
    )
    return template("modelwright.stages", "study.html.jinja").render(body=Markup(body))


def _plots(findings: Findings) -> str:
    sizes = findings.sizes
    plots = [
        _plot("bytes per token", [(s.vocab_size, s.fertility.bytes_per_token) for s in sizes]),
        _plot("bits per byte", [(s.vocab_size, s.bits_per_byte) for s in sizes if s.bits_per_byte]),
        _plot("embedding, millions", [(s.vocab_size, s.embedding_parameters / 1e6) for s in sizes]),
        _premiums(findings),
    ]
    return "".join(f"<figure>{plot}</figure>" for plot in plots if plot)


def _plot(name: str, points: Sequence[tuple[float, float]]) -> str:
    line = Line(name=name, points=points, dots=True)
    title = f"{name} by size of the vocabulary"
    return line_chart([line], "ids in the vocabulary", name, title, factors=True)


def _premiums(findings: Findings) -> str:
    """The worst, the 90th percentile and the median language, by size."""
    lines: list[Line] = []
    for name, share in (("worst language", 1.0), ("90th percentile", 0.9), ("median", 0.5)):
        points: list[tuple[float, float]] = []
        for size in findings.sizes:
            ranked = sorted(r.premium for r in findings.languages if r.vocab_size == size.vocab_size)
            if ranked:
                points.append((size.vocab_size, ranked[round(share * (len(ranked) - 1))]))
        lines.append(Line(name=name, points=points, dots=True))
    label = f"tokens over {findings.reference}'s"
    return line_chart(lines, "ids in the vocabulary", label, "Premium of languages by size", factors=True)


def _languages(findings: Findings, chosen: int) -> str:
    rows = sorted((r for r in findings.languages if r.vocab_size == chosen), key=lambda r: r.premium)
    if not rows:
        return ""
    cells = [([show(row) for show in LANGUAGE_COLUMNS.values()], False) for row in rows]
    if len(cells) > 2 * SHOWN:
        cells[SHOWN:-SHOWN] = [(["..."] * len(LANGUAGE_COLUMNS), False)]
    return (
        f"<h2>Languages at {chosen:,} ids</h2><p>{len(rows)} languages, the same text in each; the"
        f" premium is tokens over those of {escape(findings.reference)}. Shown are the cheapest and the"
        f" dearest; study.json has all. A text that was not translated whole looks cheap.</p>"
        f"{_table(list(LANGUAGE_COLUMNS), cells)}"
    )


def _table(head: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    """The first column names a row, the others are numbers; a row may be the chosen one."""
    names = "".join(f"<th{_NUMBER if place else ''}>{escape(name)}</th>" for place, name in enumerate(head))
    body = "".join(
        f"<tr{' class=chosen' if chosen else ''}>"
        + "".join(f"<td{_NUMBER if place else ''}>{escape(cell)}</td>" for place, cell in enumerate(row))
        + "</tr>"
        for row, chosen in rows
    )
    return f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>"


_NUMBER = ' class="n"'

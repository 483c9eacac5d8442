"""The study of vocabularies as a table and as one HTML page that needs no other file and no script."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

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

_STYLE = """
:root { color-scheme: light dark; --paper: #fdfdfc; --ink: #1c1d20; --soft: #62656d; --line: #dcdde1;
  --c1: #1f6feb; --c2: #c2500a; --c3: #1a7f5a; --c4: #8a3fb5; --c5: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e4e6ea; --soft: #9aa0ab;
  --line: #33373f; --c1: #6aa7ff; --c2: #f2935c; --c3: #4fc79a; --c4: #c48bea; --c5: #9aa3b0; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .35rem .7rem .35rem 0; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } thead th { color: var(--soft); font-weight: 500; }
tr.chosen td { font-weight: 600; } .soft { color: var(--soft); } figure { margin: 1.5rem 0; }
svg.plot { width: 100%; height: auto; display: block; font: 12px system-ui, sans-serif; }
svg.plot text { fill: var(--soft); } svg .grid { stroke: var(--line); } svg .axis { stroke: var(--soft); }
svg .curve { fill: none; stroke: currentColor; stroke-width: 1.8; } svg .fill { fill: currentColor; }
.s1 { color: var(--c1); } .s2 { color: var(--c2); } .s3 { color: var(--c3); } .s4 { color: var(--c4); }
.s5 { color: var(--c5); }
"""


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
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>How large a vocabulary</title><style>{_STYLE}</style></head><body>"
        f"<h1>How large a vocabulary: {chosen:,} ids</h1>{reasons}"
        f"<h2>Sizes</h2>{_table(list(COLUMNS), sizes)}"
        '<p class="soft">On held-out text. Coverage: share of the text in tokens of whole characters. '
        f"Unused: tokens that do not occur in it. Embedding: for a target of {depth} layers.</p>"
        f"{_plots(findings)}{_languages(findings, chosen)}</body></html>\n"
    )


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
    return line_chart([line], "ids in the vocabulary", name, f"{name} by size of the vocabulary")


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
    return line_chart(lines, "ids in the vocabulary", label, "Premium of languages by size")


def _languages(findings: Findings, chosen: int) -> str:
    rows = sorted((r for r in findings.languages if r.vocab_size == chosen), key=lambda r: r.premium)
    if not rows:
        return ""
    shown = rows if len(rows) <= 2 * SHOWN else [*rows[:SHOWN], *rows[-SHOWN:]]
    cells = [([show(row) for show in LANGUAGE_COLUMNS.values()], False) for row in shown]
    return (
        f"<h2>Languages at {chosen:,} ids</h2><p>{len(rows)} languages, the same text in each; the"
        f" premium is tokens over those of {escape(findings.reference)}. Shown are the cheapest and the"
        f" dearest; study.json has all.</p>{_table(list(LANGUAGE_COLUMNS), cells)}"
    )


def _table(head: Sequence[str], rows: Sequence[tuple[Sequence[str], bool]]) -> str:
    cells = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(
        f"<tr{' class=chosen' if chosen else ''}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for row, chosen in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"

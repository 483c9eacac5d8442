"""HTML pages that need no other file, no script and no network: templates, and numbers in words.

`page.html.jinja` has the style that all of them share; every template extends it. Text is escaped by the
template; SVG comes from `plots`, which escapes its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import jinja2
from markupsafe import Markup

from modelwright.base.metrics import size
from modelwright.evaluation import plots

_SHARED = "modelwright.evaluation"


@cache
def template(package: str, name: str) -> jinja2.Template:
    """The template `name` that lies in `package`."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(each, ".") for each in (package, _SHARED)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals["key"] = lambda model: Markup(plots.key(model))
    return environment.get_template(name)


def duration(seconds: float) -> str:
    """75 -> "1 min 15 s"."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s"


def flops(count: float) -> str:
    """42.3e12 -> "42.3 TFLOP"."""
    text = plots.short(count)
    return f"{text[:-1]} {text[-1]}FLOP" if text[-1].isalpha() else f"{text} FLOP"


def score(cell: float, unit: str) -> str:
    """A score in its unit: shares as per cent."""
    if not math.isfinite(cell):
        return "unbounded"
    return f"{cell * 100:.1f} %" if unit == "share" else f"{cell:.1f}" if unit == "words" else f"{cell:.3f}"


def change(value: float, unit: str) -> str:
    """A difference with its sign: shares in percentage points."""
    return f"{value * 100:+.1f} points" if unit == "share" else f"{value:+.3g}"


def visible(token: str) -> str:
    """A token whose white space can be seen."""
    return token.replace(" ", "\u2423").replace("\n", "\u23ce").replace("\t", "\u21e5")


def _guarded(show: Callable[..., str]) -> Callable[..., str]:
    """A damaged number is shown as a question mark; it does not cost the reader the page."""

    def guarded(value: float, *rest: str) -> str:
        return show(value, *rest) if math.isfinite(value) else "?"

    return guarded


FILTERS = {
    "duration": _guarded(duration),
    "size": _guarded(size),
    "flops": _guarded(flops),
    "score": score,
    "change": _guarded(change),
    "short": _guarded(plots.short),
    "percent": _guarded(lambda share: f"{share * 100:.1f} %"),
    "visible": visible,
}

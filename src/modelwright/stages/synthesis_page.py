"""What came of writing as one HTML page that needs no other file: the funnel, and texts for each reason."""

from __future__ import annotations

from typing import Any

from modelwright.data.synthesis.funnel import Funnel
from modelwright.evaluation.page import template


def render(funnel: Funnel, metrics: dict[str, Any]) -> str:
    """The page. Its texts are a model's: the template escapes them."""
    widest = max((step.came for step in funnel.steps), default=1) or 1
    bars = [
        {"step": step, "width": 100 * step.left / widest, "lost": 100 * (step.came - step.left) / widest}
        for step in funnel.steps
    ]
    counts = {rule: count for step in funnel.steps for rule, count in step.reasons.items()}
    reasons = sorted(funnel.examples.items(), key=lambda item: -counts[item[0]])
    return template("modelwright.stages", "synthesis.html.jinja").render(
        bars=bars, reasons=reasons, counts=counts, metrics=metrics
    )

"""How a filter says that a measure is beyond its limit."""

from __future__ import annotations

from modelwright.base.schema import Reason


def below(rule: str, value: float, least: float | None) -> Reason | None:
    """A reason if the value is less than asked; None asks nothing."""
    return None if least is None or value >= least else Reason(rule, value, f"at least {least:g} asked")


def above(rule: str, value: float, most: float | None) -> Reason | None:
    """A reason if the value is more than allowed; None allows all."""
    return None if most is None or value <= most else Reason(rule, value, f"at most {most:g} allowed")

"""What is looked for, and how a find is told."""

from __future__ import annotations

from typing import Literal, NamedTuple

Kind = Literal["email", "phone", "iban", "card", "ip", "secret", "national_id"]

KINDS: tuple[Kind, ...] = ("secret", "email", "iban", "card", "ip", "national_id", "phone")
"""In order of precedence: where two finds overlap, the kind that stands first here is kept."""

DEFAULT_KINDS: tuple[Kind, ...] = ("secret", "email", "iban", "card", "ip", "phone")
"""National identity numbers are left to be asked for: their forms are those of many other numbers."""


class Finding(NamedTuple):
    """text[start:end] is personal data, or a secret, of a kind."""

    kind: Kind
    start: int
    end: int

"""Findings replaced by what nobody can be reached or robbed with."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection
from typing import Literal

from modelwright.base.errors import ConfigError
from modelwright.data.privacy.find import find
from modelwright.data.privacy.finding import DEFAULT_KINDS, Kind

Style = Literal["tag", "fixed", "pseudonym"]

_FIXED: dict[Kind, str] = {"email": "email@example.com", "phone": "+1 202 555 0100", "ip": "192.0.2.1"}
"""Reserved for examples: RFC 2606, the North American 555-01xx numbers, RFC 5737. Other kinds have no
reserved values, and get their tag."""

_MAX_PASSES, _STYLED_PASSES = 8, 2
"""A stand-in that forms a new number with what is around it, again and again, gives way to a tag."""


def mask(
    text: str, kinds: Collection[Kind] = DEFAULT_KINDS, style: Style = "tag", salt: str = ""
) -> tuple[str, Counter[str]]:
    """The text with every finding replaced, and how many of each kind there were.

    Styles: "tag" (<EMAIL>), "fixed" (one address that is reserved for examples), or "pseudonym" (the same
    for the same value and salt, so that who answers whom can still be read; without the salt, values can
    be guessed and tried). Masking what is masked changes nothing: a mask may lay bare a new finding
    ("a@b.org@c.org"), so masking goes on until there is none.
    """
    if style == "pseudonym" and not salt:
        raise ConfigError("masking by pseudonym needs a salt: a text that nobody outside knows.")
    counts: Counter[str] = Counter()
    for number in range(_MAX_PASSES):
        findings = find(text, kinds)
        if not findings:
            break
        pieces: list[str] = []
        end = 0
        for finding in findings:
            value = text[finding.start : finding.end]
            stand_in = _replacement(finding.kind, value, style if number < _STYLED_PASSES else "tag", salt)
            pieces += (text[end : finding.start], stand_in)
            end = finding.end
            counts[finding.kind] += 1
        text = "".join([*pieces, text[end:]])
    return text, counts


def _replacement(kind: Kind, value: str, style: Style, salt: str) -> str:
    tag = f"<{kind.upper()}>"
    if style == "tag":
        return tag
    if style == "fixed":
        return _FIXED.get(kind, tag)
    same = value.lower() if kind in ("email", "ip") else "".join(filter(str.isalnum, value))
    data = f"{kind}\0{same}".encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, key=hashlib.sha256(salt.encode()).digest()).hexdigest()
    if kind == "email":
        return f"user-{digest[:10]}@example.com"
    if kind == "phone":
        return f"+1 202 555 01{int(digest[:8], 16) % 100:02d}"
    if kind == "ip":
        return f"192.0.2.{int(digest[:8], 16) % 254 + 1}"
    return f"<{kind.upper()}:{digest[:10]}>"

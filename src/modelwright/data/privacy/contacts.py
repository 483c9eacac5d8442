"""E-mail addresses and telephone numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelwright.data.privacy.finding import Finding
from modelwright.data.privacy.prescan import Region, places_of

MAX_LOCAL, MAX_DOMAIN = 64, 254
"""RFC 5321, 4.5.3.1: longest local part and path."""

_LOCAL = re.compile(r"[\w+](?:[\w!#$%'*+^~.-]{0,63})\Z")
_DOMAIN = re.compile(r"(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.)+[^\W\d_]{2,24}(?!\w)")
_RESERVED = re.compile(
    r"(?:\A|\.)(?:example\.(?:com|org|net|edu)|example|test|invalid|localhost)\Z", re.IGNORECASE
)
_FILE_ENDINGS = ("png", "jpg", "jpeg", "gif", "svg", "webp")  # icon@2x.png is a file


def emails(text: str) -> Iterator[Finding]:
    """Addresses, apart from those that RFC 2606 reserves for examples. Letters of every script count; the
    signs / = ? & ` { | }, lawful but not seen, do not: they stand around addresses in links and code."""
    for at in places_of(text, "@"):
        domain = _DOMAIN.match(text, at + 1, at + 1 + MAX_DOMAIN)
        if domain is None or domain[0].rpartition(".")[2].lower() in _FILE_ENDINGS:
            continue
        before = text[max(0, at - MAX_LOCAL) : at]
        local = _LOCAL.search(before)
        if local is None or before.endswith(".") or ".." in local[0] or _RESERVED.search(domain[0]):
            continue
        yield Finding("email", at - len(local[0]), domain.end())


_SEPARATED = r"(?:[ .\-/()]{0,3}\d)"
_PHONES = (
    # International: +44 20 7946 0958, +1 (212) 555-7890, 0049 30 901820.
    re.compile(rf"(?<![\w+.])\+ ?[1-9]{_SEPARATED}{{7,14}}(?!\w|[.,-]\d)"),
    re.compile(rf"(?<![\w+.])(?<!\d )00[1-9]\d{{0,2}}[ /()-]{_SEPARATED}{{6,12}}(?!\w|[.,-]\d)"),
    # North America: (212) 555-7890, 212.555.7890, 1-800-356-9377.
    re.compile(
        r"(?<![\w.+/-])(?<!\d )(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d([ .-]))"
        r"[2-9]\d\d(?(1)\1|[ .-])\d{4}(?!\w|[.,/-]\d)"
    ),
    # United Kingdom: 020 7946 0958, 01632 960 123, 07700 900123.
    re.compile(r"(?<![\w.+/-])(?<!\d )(?:\(0\d{2,4}\)|0[1-9]\d{1,3}) \d{3,4} ?\d{3,4}(?!\w|[ .,/-]\d)"),
    # France and others by twos: 01 23 45 67 89.
    re.compile(r"(?<![\w.+/-])(?<!\d )0[1-9]([ .-])\d\d(?:\1\d\d){3}(?!\w|[ .,/-]\d)"),
    # Germany: 030/901820, 0171-1234567.
    re.compile(r"(?<![\w.+/-])(?<!\d )0[1-9]\d{1,3} ?[/-] ?\d{3,4} ?\d{3,5}(?!\w|[.,/-]\d)"),
    # Whatever is called a telephone number.
    re.compile(
        r"(?i:\b(?:tel|phone|fax|mobile|cell|telefon|telephone|tél|téléphone|teléfono|whatsapp)"
        rf"(?: (?:number|no))?[.:]{{0,2}}\s{{0,3}})(\(?\d{_SEPARATED}{{6,13}})(?!\w|[.,]\d)"
    ),
)
_FICTITIOUS = re.compile(r"55501\d\d\Z")
"""North American numbers kept for stories, which masks use."""

_DATE = re.compile(r"\d{4}[-/. ]\d\d?[-/. ]\d\d?|\d\d?[-/. ]\d\d?[-/. ]\d{4}")


def phones(text: str, region: Region) -> Iterator[Finding]:
    """International numbers, the common national forms, and what is called a telephone number."""
    for pattern in _PHONES:
        for match in pattern.finditer(text, *region):
            group = 1 if pattern is _PHONES[-1] else 0
            digits = re.sub(r"\D", "", match[group])
            if 7 <= len(digits) <= 15 and not _DATE.fullmatch(match[0]) and not _FICTITIOUS.search(digits):
                yield Finding("phone", *match.span(group))

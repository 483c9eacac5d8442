"""Public internet addresses. Private, local, documentation and other special ranges are nobody's."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from modelwright.data.privacy.finding import Finding
from modelwright.data.privacy.prescan import Region, places_of

_V4 = re.compile(
    r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\d)", re.ASCII
)
_VERSION = re.compile(r"version|release|upgrad|patch|\bver?[.:]?\s?\Z", re.IGNORECASE)
_CONTEXT = 60
"""Characters before a dotted quad in which it may be called a version."""

_V6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}:[0-9a-f:]{2,34}(?![\w:])", re.IGNORECASE | re.ASCII)
_GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def ipv4(text: str, region: Region) -> Iterator[Finding]:
    """Dotted quads that are routed on the internet, and are not called a version."""
    if text.count(".", *region) < 3:
        return
    for match in _V4.finditer(text, *region):
        called = text[max(0, match.start() - _CONTEXT) : match.start()]
        if _is_public(match[0]) and not _VERSION.search(called):
            yield Finding("ip", *match.span())


def ipv6(text: str) -> Iterator[Finding]:
    """Addresses of the one range that is routed, 2000::/3."""
    if text.count(":") < 2:
        return
    seen = -1
    for place in places_of(text, ":"):
        if place < seen or place < 4 or text[place - 4] not in "23":
            continue
        match = _V6.match(text, place - 4)
        if match and _is_public(match[0]):
            seen = match.end()
            yield Finding("ip", *match.span())


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_global and not found.is_multicast and (found.version == 4 or found in _GLOBAL_UNICAST)

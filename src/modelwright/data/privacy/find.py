"""Personal data and secrets in a text."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from modelwright.data.privacy.addresses import ipv4, ipv6
from modelwright.data.privacy.contacts import emails, phones
from modelwright.data.privacy.finding import DEFAULT_KINDS, KINDS, Finding, Kind
from modelwright.data.privacy.numbers import cards, ibans, national_ids
from modelwright.data.privacy.prescan import key_regions, number_regions, one_byte_each
from modelwright.data.privacy.secrets import assigned, credentials, keys, private_keys

_MIN_DIGITS = 4
"""Of an IPv4 address, the number with the fewest digits."""

_NUMBERS = (("phone", phones, 7), ("iban", ibans, 7), ("card", cards, 13), ("national_id", national_ids, 8))
"""(kind, finder, digits that stand close together in the shortest)"""


def find(text: str, kinds: Collection[Kind] = DEFAULT_KINDS) -> list[Finding]:
    """All findings in the order of the text, none overlapping another. Time is linear in the text."""
    wanted = set(kinds)
    found = set(_all(text, wanted))
    if not found:
        return []
    made = sorted(found, key=lambda each: (KINDS.index(each.kind), each.start, -each.end))
    taken: list[Finding] = []
    for kind in KINDS:
        taken = _merge(taken, [each for each in made if each.kind == kind])
    return taken


def _all(text: str, wanted: Collection[Kind]) -> Iterator[Finding]:
    letters = one_byte_each(text)
    if "secret" in wanted:
        for region in key_regions(letters):
            yield from keys(text, region)
        yield from private_keys(text)
        yield from assigned(text)
        yield from credentials(text)
    if "email" in wanted:
        yield from emails(text)
    if "ip" in wanted:
        yield from ipv6(text)
    for count, start, end in number_regions(letters, _MIN_DIGITS):
        if "ip" in wanted:
            yield from ipv4(text, (start, end))
        for kind, finder, digits in _NUMBERS:
            if kind in wanted and count >= digits:
                yield from finder(text, (start, end))


def _merge(taken: list[Finding], more: list[Finding]) -> list[Finding]:
    """`taken`, and of `more` what overlaps none of it nor an earlier one of `more`. Both are sorted."""
    merged: list[Finding] = []
    waiting = iter(taken)
    held = next(waiting, None)
    for each in more:
        while held is not None and held.end <= each.start:
            merged.append(held)
            held = next(waiting, None)
        if (held is None or each.end <= held.start) and (not merged or merged[-1].end <= each.start):
            merged.append(each)
    return [*merged, *([held] if held else []), *waiting]

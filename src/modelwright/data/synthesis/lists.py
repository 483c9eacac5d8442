"""An answer that should be a list of texts -> its items: numbered lines, bullets, or JSON.

The answer is a model's, and so hostile: only its first `MAX_CHARACTERS` are read, at most `limit` items are
taken, and time is linear in what is read. The last item of an answer that was cut off is not taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from modelwright.base.schema import Json
from modelwright.data.synthesis.quoting import bare

MAX_CHARACTERS = 64_000

_FENCE = re.compile(r"```[a-zA-Z]{0,10}\n(.*?)(?:```|\Z)", re.DOTALL)
_NUMBERED = re.compile(
    r"^([ \t]{0,8})(?:\*\*|#{1,4} )?(?:(?:task|request|instruction|question)[ \t]+)?"
    r"(\d{1,6})[ \t]*(?:[.):]|\*\*:?)(?:\*\*)?(?=\s|$)",
    re.IGNORECASE | re.MULTILINE,
)
_BULLET = re.compile(r"^[-*•][ \t]+", re.MULTILINE)
_NAMES = ("instruction", "request", "task", "question", "prompt", "text")
"""Fields of an object that may hold the item, in order of preference; `input` is then put behind it."""


def listed(text: str, limit: int, is_whole: bool = True) -> list[str]:
    """At most `limit` items, none of them empty, in order; none where the answer is no list. `is_whole`: the
    answer was not cut off."""
    text = text[:MAX_CHARACTERS]
    for read in (_json_items, _numbered, _bullets):
        items = list(islice((item for item in read(text, is_whole) if item), limit))
        if items:
            return items
    return []


def _json_items(text: str, is_whole: bool) -> Iterator[str]:
    """The items of the first JSON array that stands in a block of code, or with which the answer begins. What
    is read before a fault counts: an array that was cut off has whole items before."""
    fence = _FENCE.search(text)
    body = (fence[1] if fence else text).strip()
    if body.startswith("{"):  # {"requests": [...]}
        body = body[body.find("[") :] if "[" in body else ""
    if not body.startswith("["):
        return
    decoder, place = json.JSONDecoder(), 1
    while place < len(body):
        while place < len(body) and body[place] in " \t\r\n,":
            place += 1
        try:
            value, place = decoder.raw_decode(body, place)
        except (ValueError, RecursionError):
            return
        if item := _item(value):
            yield item


def _item(value: Json) -> str:
    if isinstance(value, dict):
        main = next((value[name] for name in _NAMES if isinstance(value.get(name), str)), "")
        more = value.get("input")
        parts = [main.strip(), more.strip() if isinstance(more, str) and main.strip() else ""]
        value = "\n\n".join(part for part in parts if part)
    if not isinstance(value, str):
        return ""
    return value.encode("utf-8", "replace").decode().strip()  # JSON's escapes can be half a surrogate pair


def _numbered(text: str, is_whole: bool) -> Iterator[str]:
    """Lines that begin with consecutive numbers, from any number on. A list within an item has numbers that
    are not next, or stands further in."""
    places: list[tuple[int, int]] = []
    indent, expected = 0, None
    for mark in _NUMBERED.finditer(text):
        if expected is None:
            indent = len(mark[1])
        if len(mark[1]) <= indent and (expected is None or int(mark[2]) == expected):
            places.append(mark.span())
            expected = int(mark[2]) + 1
    if len(places) < 1:
        return
    yield from _between(text, places, is_whole)


def _bullets(text: str, is_whole: bool) -> Iterator[str]:
    """Lines that begin with a bullet, at the edge."""
    places = [mark.span() for mark in _BULLET.finditer(text)]
    if len(places) > 1:
        yield from _between(text, places, is_whole)


def _between(text: str, places: list[tuple[int, int]], is_whole: bool) -> Iterator[str]:
    """What stands behind each mark, up to the next."""
    ends = [start for start, _ in places[1:]] + ([len(text)] if is_whole else [])
    for (_, start), end in zip(places, ends, strict=False):
        yield bare(text[start:end])

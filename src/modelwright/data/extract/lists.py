"""Lists of a page that are content, told from menus.

Resiliparse 2.0.1 takes every <ul> for a menu where it looks for the main content: of 14,174 items in the
SQLite documentation it keeps 81. So lists that are mostly no links become paragraphs with a bullet first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BULLET = "• "
MAX_LINK_SHARE = 0.5
"""A list with a larger share of its text in links is a menu (link density: Kohlschütter et al. 2010)."""

_TAG = re.compile(r"<(/?)(ul|ol|li|a)(?=[\s>/])[^<>]*>", re.IGNORECASE)

Edit = tuple[int, int, str]
"""Characters [start, stop) of the page, and what takes their place."""


@dataclass(slots=True)
class _List:
    """A list that is open; texts are counted in characters, with their markup."""

    tag: str
    start: int
    stop: int
    text: int = 0
    linked: int = 0
    items: list[Edit] = field(default_factory=list[Edit])


def keep_lists(page: str) -> str:
    """The page with its content lists as paragraphs. One pass; lists that are never closed stay."""
    lists: list[_List] = []
    edits: list[Edit] = []
    in_link, place = False, 0
    for found in _TAG.finditer(page):
        closes, tag = bool(found[1]), found[2].lower()
        if lists:
            lists[-1].text += found.start() - place
            lists[-1].linked += (found.start() - place) * in_link
        place = found.end()
        if tag == "a":
            in_link = not closes
        elif tag == "li":
            if lists:
                lists[-1].items.append((*found.span(), "" if closes else f"<p>{BULLET}"))
        elif not closes:
            lists.append(_List(tag, *found.span()))
        elif lists:
            done = lists.pop()
            if lists:
                lists[-1].text += done.text
                lists[-1].linked += done.linked
            if done.tag == tag == "ul" and done.linked <= MAX_LINK_SHARE * done.text:
                edits += [(done.start, done.stop, "<div>"), *done.items, (*found.span(), "</div>")]
    return _edited(page, sorted(edits))


def _edited(page: str, edits: list[Edit]) -> str:
    pieces: list[str] = []
    place = 0
    for start, stop, replacement in edits:
        pieces += [page[place:start], replacement]
        place = stop
    return "".join([*pieces, page[place:]])

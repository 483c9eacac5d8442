"""How evaluation items come to stand in training text: copied, wrapped anew, embedded, edited.

What "edited" takes of an item depends on its length: one word of twelve of a long question, one of six of a
question of six words, which may be the one word that tells it from a thousand others.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelwright.data.decontaminate.items import EvalItem

Disguise = Literal["verbatim", "re-wrapped", "embedded", "edited", "question alone"]
DISGUISES: tuple[Disguise, ...] = ("verbatim", "re-wrapped", "embedded", "edited", "question alone")

WORDS_AN_EDIT = 12
"""One word of so many is replaced, dropped or misspelt, and at least one of an item."""

NEAR_CHARACTERS, LONG_CHARACTERS = 1000, (5000, 20000)
"""Host text around an item: little, or for "embedded" between these bounds."""


@dataclass(frozen=True, slots=True)
class Planted:
    """A host text with an item at text[start:end]."""

    text: str
    start: int
    end: int


def plant(item: EvalItem, disguise: Disguise, hosts: Sequence[str], dice: random.Random) -> Planted:
    """The item in a text made of `hosts`, which are drawn from `dice` and cut at any character."""
    shown = item.question if disguise == "question alone" else f"{item.question}\n{item.answer}".strip()
    if disguise == "re-wrapped":
        shown = dice.choice(WRAPPINGS)(shown)
    elif disguise == "edited":
        shown = edit(shown, hosts, dice)
    size = dice.randint(*LONG_CHARACTERS) if disguise == "embedded" else NEAR_CHARACTERS
    host = ""
    while len(host) < size:
        host += dice.choice(hosts) + "\n\n"
    place = dice.randrange(size)
    before, after = host[:place], host[place:size]
    text = f"{before}\n\n{shown}\n\n{after}"
    return Planted(text, len(before) + 2, len(before) + 2 + len(shown))


def edit(text: str, hosts: Sequence[str], dice: random.Random) -> str:
    """A few words replaced by words of the hosts, dropped, or with two letters swapped."""
    pieces = re.split(r"(\s+)", text)  # words at even places, white space at odd ones
    places = [place for place in range(0, len(pieces), 2) if pieces[place]]
    for place in dice.sample(places, min(len(places), max(1, len(places) // WORDS_AN_EDIT))):
        word = pieces[place]
        way = dice.choice(("replace", "drop", "misspell"))
        if way == "replace":
            pieces[place] = dice.choice(dice.choice(hosts).split() or ["thing"])
        elif way == "drop" or len(word) < 2:
            pieces[place] = ""
        else:
            at = dice.randrange(len(word) - 1)
            pieces[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return "".join(pieces)


def _lines_of_eight(text: str) -> str:
    words = text.split()
    return "\n".join(" ".join(words[at : at + 8]) for at in range(0, len(words), 8))


def _wide_spaces(text: str) -> str:
    return "\u00a0 \t".join(text.split())


def _markdown(text: str) -> str:
    return "\n".join(f"> **{line}**" if line.strip() else ">" for line in text.splitlines())


def _json(text: str) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}]})


WRAPPINGS = (_lines_of_eight, _wide_spaces, str.upper, _markdown, _json)

"""Text from files and models is hostile to a terminal: control codes are shown, not obeyed."""

from __future__ import annotations

import unicodedata


def printable(text: str, limit: int | None = None) -> str:
    """`text` with control and format characters spelled out (`\\x1b`), cut to `limit` characters.

    Line ends and tabs stay. Bidirectional overrides (category Cf) go the same way, since they can make
    a line read as something else; the zero width joiner stays, because scripts and emoji need it.
    """
    if limit is not None and len(text) > limit:
        text = text[: max(limit - 1, 0)] + "…"
    return "".join(_spell(character) for character in text)


def _spell(character: str) -> str:
    if character in "\n\t\u200c\u200d" or unicodedata.category(character) not in ("Cc", "Cf", "Cs"):
        return character
    return ascii(character)[1:-1]

"""Which licence a file of a source-code tree stands under: SPDX identifiers, by header or licence text.

A file's own `SPDX-License-Identifier:` counts first (https://spdx.dev/learn/handling-license-info), then
the licence file in its folder or the nearest one above. Texts are told apart by sentences that only they
hold; one that is not known stays "unknown", which a policy can refuse.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import lru_cache

MAX_LICENCE_BYTES = 1 << 16
_HEADER = re.compile(r"SPDX-License-Identifier:[ \t]*([A-Za-z0-9.+() -]{1,100}?)[ \t]*(?:\*/|-->|$)", re.M)
_FILE_NAME = re.compile(r"(un)?licen[cs]e|copying", re.IGNORECASE)

TELL_TALES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("LGPL-2.1", ("gnu lesser general public license", "version 2.1, february 1999")),
    ("LGPL-3.0", ("gnu lesser general public license", "version 3, 29 june 2007")),
    ("AGPL-3.0", ("gnu affero general public license", "version 3, 19 november 2007")),
    ("GPL-2.0", ("gnu general public license", "version 2, june 1991")),
    ("GPL-3.0", ("gnu general public license", "version 3, 29 june 2007")),
    ("Apache-2.0", ("apache license", "version 2.0, january 2004")),
    ("MPL-2.0", ("mozilla public license", "version 2.0")),
    ("CC0-1.0", ("cc0 1.0 universal",)),
    ("CC-BY-SA-4.0", ("attribution-sharealike 4.0 international",)),
    ("CC-BY-4.0", ("attribution 4.0 international",)),
    ("Unlicense", ("this is free and unencumbered software released into the public domain",)),
    ("BSD-3-Clause", ("redistributions in binary form must reproduce", "neither the name")),
    ("BSD-3-Clause", ("redistributions in binary form must reproduce", "names of its contributors")),
    ("BSD-2-Clause", ("redistributions in binary form must reproduce", "redistributions of source code")),
    ("MIT", ("permission is hereby granted, free of charge", 'the software is provided "as is"')),
    ("ISC", ("permission to use, copy, modify, and/or distribute this software for any purpose",)),
    ("ISC", ("permission to use, copy, modify, and distribute this software for any purpose",)),
)
"""SPDX identifier, and what its text holds in small letters and single spaces; the first that fits."""


def header_licence(text: str) -> str | None:
    """The SPDX expression in the first lines of a file."""
    found = _HEADER.search(text[:4000])
    return found.group(1).strip() if found else None


def text_licence(text: str) -> str | None:
    """The SPDX identifier of a licence's text."""
    if header := header_licence(text):
        return header
    plain = " ".join(text.lower().replace("“", '"').replace("”", '"').replace("''", '"').split())
    names = (name for name, marks in TELL_TALES if all(mark in plain for mark in marks))
    return next(names, None)


@lru_cache(maxsize=4096)
def folder_licence(folder: str) -> str | None:
    """The licence of a folder's files: that of its licence files, else that of the folder above, up to
    the top of the work tree (which holds .git). Two licence texts side by side are a choice (MIT OR
    Apache-2.0); one that is not known makes it "unknown"."""
    found = sorted({text_licence(text) or "unknown" for text in _licence_texts(folder)})
    if found:
        return "unknown" if "unknown" in found else " OR ".join(found)
    above = os.path.dirname(folder)
    if above == folder or os.path.lexists(os.path.join(folder, ".git")):
        return None
    return folder_licence(above)


def _licence_texts(folder: str) -> Iterator[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if _FILE_NAME.match(name))
    except OSError:
        return
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and not os.path.islink(path):
            with open(path, "rb") as file:
                yield file.read(MAX_LICENCE_BYTES).decode("utf-8", "replace")

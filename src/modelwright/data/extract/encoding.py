"""Bytes of a page to text, by what the page and its server say of its characters."""

from __future__ import annotations

import codecs
import re

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE)

NO_CHARACTER_SETS = frozenset(["idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"])
"""Codecs of Python that no page means (the Encoding Standard has none of them). Undoing Punycode takes time
that grows with the square of the page: one that says it is written so could hold up a process for hours."""


def decode(content: bytes, charset: str = "") -> str:
    """By byte order mark, else `charset` (what HTTP said), else `<meta charset>`, else UTF-8.

    Raises UnicodeDecodeError where the bytes are not what the page says.
    """
    for mark, name in ((codecs.BOM_UTF8, "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if content.startswith(mark):
            return content.decode(name)
    found = _META_CHARSET.search(content[:2048])
    name = charset or (found.group(1).decode("ascii") if found else "utf-8")
    name = name.lower()
    if name in ("iso-8859-1", "latin-1", "ascii", "us-ascii"):
        name = "cp1252"  # what browsers do, since pages mean it
    try:
        return content.decode("utf-8" if codecs.lookup(name).name in NO_CHARACTER_SETS else name)
    except (LookupError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise
        return content.decode("utf-8")  # a name that nobody knows, or no character set at all ("hex")

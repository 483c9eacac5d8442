"""A list of JSON objects (.json), read piece by piece; objects one behind the other will do too, as many
programs call JSON Lines .json.

The text is cut where objects end, by counting brackets outside of strings, and each piece is parsed alone: a
broken object costs itself, and memory holds one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from modelwright.data.readers import jsonl
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row
from modelwright.data.readers.streams import BROKEN_STREAM, MAX_LINE_BYTES, broken_stream, open_bytes

_PIECE = 1 << 16
_MARK = re.compile(rb'["\\{}\[\]]')
_BETWEEN = b" \t\r\n,\xef\xbb\xbf"


def rows(part: Part, faults: Faults) -> Iterator[Row]:
    """The objects of a file, each with its number."""
    number = 0
    try:
        with open_bytes(part.path) as file:
            for item in _Items().of(iter(lambda: file.read(_PIECE), b"")):
                number += 1
                where = f"{part.where}, row {number}"
                if len(item) > MAX_LINE_BYTES:
                    faults("row too long", where, f"longer than {MAX_LINE_BYTES:,} bytes")
                elif (fields := jsonl.parse(item, where, faults)) is not None:
                    yield Row(fields, part, "row", number)
    except BROKEN_STREAM as error:
        broken_stream(error, part.path, faults, f" after {number} rows")


class _Items:
    """Cuts a text into the items of its outermost list, or into values that stand one behind the other."""

    def __init__(self) -> None:
        self._item = bytearray()
        """What has been read of the item; of one that is too long, its beginning."""
        self._depth = 0
        """Brackets that are open within the item."""
        self._in_list = self._in_string = self._is_escaped = False

    def of(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The items. Raises EOFError where the text ends within one, or before the list does."""
        for piece in pieces:
            start = 0
            if self._is_escaped:  # the piece before ended with a backslash
                start, self._is_escaped = 1, False
                self._keep(piece[:1])
            yield from self._cut(piece, start)
        if self._depth or self._in_list or self._in_string:
            raise EOFError("the text ends in the middle of a list or an object")
        yield from self._whole()

    def _cut(self, piece: bytes, start: int) -> Iterator[bytes]:
        done = start
        while match := _MARK.search(piece, start):
            mark, start = match[0], match.end()
            if self._in_string and mark == b"\\":
                start += 1
                self._is_escaped = start > len(piece)
            elif mark == b'"':
                self._in_string = not self._in_string
            elif self._in_string or mark == b"\\" or (mark == b"}" and not self._depth):
                continue
            elif not self._depth and (mark == b"]" or (mark == b"[" and not self._in_list)):
                self._in_list = mark == b"["
                self._keep(piece[done : match.start()])
                yield from self._whole()
                done = start
            elif mark in b"[{":
                if not self._depth:  # what stands before it is no part of it
                    self._keep(piece[done : match.start()])
                    yield from self._whole()
                    done = match.start()
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    self._keep(piece[done:start])
                    yield from self._whole()
                    done = start
        self._keep(piece[done:])

    def _keep(self, piece: bytes) -> None:
        if len(self._item) <= MAX_LINE_BYTES:
            self._item += piece

    def _whole(self) -> Iterator[bytes]:
        """The item, if it is anything."""
        item = bytes(self._item).strip(_BETWEEN)
        self._item.clear()
        if item:
            yield item

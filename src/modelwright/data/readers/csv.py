"""CSV and TSV as RFC 4180 has them: the first row names the columns, quoted fields may hold line ends."""

from __future__ import annotations

import csv
from collections.abc import Iterator

from modelwright.data.readers.documents import MAX_TEXT_BYTES
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row
from modelwright.data.readers.streams import lines_of

DELIMITERS = {"csv": ",", "tsv": "\t"}


def rows(part: Part, faults: Faults) -> Iterator[Row]:
    """The rows of a file, each with the number of its last line. A row with more or fewer fields than there
    are columns, or with a field beyond all measure, is a fault, and reading goes on behind it."""
    csv.field_size_limit(MAX_TEXT_BYTES)
    lines = _Lines(part, faults)
    reader = csv.reader(lines, delimiter=DELIMITERS[part.format], strict=False)
    columns: list[str] | None = None
    while True:
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            faults("not CSV", f"{part.where}, line {lines.number}", f"cannot be read: {error}")
            continue
        where = f"{part.where}, line {lines.number}"
        if not fields:
            continue
        if any("\udc80" <= letter <= "\udcff" for field in fields for letter in field if letter > "\ud7ff"):
            faults("not UTF-8", where, "holds bytes that are not UTF-8. Convert the file to UTF-8")
        elif columns is None:
            columns = fields
        elif len(fields) != len(columns):
            problem = f"{len(fields)} fields, expected {len(columns)} as in the first row"
            faults("ragged row", where, problem)
        else:
            yield Row(dict(zip(columns, fields, strict=True)), part, "line", lines.number)


class _Lines:
    """The lines of a file as text. Bytes that are not UTF-8 become lone surrogates, so that the row that
    holds them can be found."""

    def __init__(self, part: Part, faults: Faults) -> None:
        self._lines = lines_of(part.path, faults, part.start, part.stop, part.first)
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        if self.number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        return line.decode("utf-8", "surrogateescape")

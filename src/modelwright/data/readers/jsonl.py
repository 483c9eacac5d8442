"""JSON Lines: an object a line (.jsonl, .ndjson)."""

from __future__ import annotations

import json
from collections.abc import Iterator

from modelwright.base.schema import Json
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row
from modelwright.data.readers.streams import lines_of


def rows(part: Part, faults: Faults) -> Iterator[Row]:
    """The objects of a part of a file, each with the number of its line. Blank lines are counted only."""
    for number, line in lines_of(part.path, faults, part.start, part.stop, part.first):
        fields = parse(line, f"{part.where}, line {number}", faults)
        if fields is not None:
            yield Row(fields, part, "line", number)


def parse(line: bytes, where: str, faults: Faults) -> dict[str, Json] | None:
    """The object that JSON text stands for; None for a blank line, and after a fault."""
    if not line.strip():
        return None
    try:
        value: Json = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        faults("not UTF-8", where, f"not valid UTF-8 at byte {error.start} of the line. Convert it to UTF-8")
    except RecursionError:
        faults("not JSON", where, "JSON nested too deeply")
    except ValueError as error:
        shown = line[:60].decode("utf-8", errors="replace").rstrip()
        faults("not JSON", where, f"not valid JSON ({error}), received '{shown}'")
    else:
        if isinstance(value, dict):
            return value
        faults("not an object", where, f"a JSON {type(value).__name__}, expected an object with fields")
    return None

"""Metrics as JSON lines: append-only, line buffered, so anything may tail them.

`metrics.jsonl` holds only what a repeated run reproduces bit for bit (losses, learning rates).
What depends on the clock (seconds, tokens/s, memory) goes to `timing.jsonl`. After a resume,
`rewind` drops the lines past the checkpoint, so the file ends as an unbroken run's would.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelwright.base.files import atomic_path


def in_words(name: str) -> str:
    """A metric's name for people: "validation_bits_per_byte" -> "validation bits per byte"."""
    return name.replace("_", " ")


def figure(value: float) -> str:
    """A number as people write it: 11,990 and 0.3948."""
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def counted(number: int, noun: str) -> str:
    """So many things: "1 step", "1,200 steps", "2 copies". `noun` is one of them, of those with a regular
    plural."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith(("s", "x", "ch", "sh")):
        noun += "e"
    elif noun.endswith("y") and noun[-2:-1] not in "aeiou":
        noun = f"{noun[:-1]}ie"
    return f"{number:,} {noun}s"


def size(count: float) -> str:
    """So many bytes: "14.2 MiB", "451 MiB", "300 bytes"."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            value = count / 1024**power
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return counted(round(count), "byte")


def finite(value: Any) -> Any:
    """A value as JSON can hold it, which has no infinity and no NaN: None in the place of these."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


class MetricsFile:
    """One JSON object a line; values that are not finite are written as null."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.reported = 0
        """The last step that an earlier session had come to, as `rewind` found it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(self.path)
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)

    def write(self, step: int, values: Mapping[str, float | int | str]) -> None:
        """Append one line."""
        line: dict[str, Any] = {"step": step}
        for name, value in values.items():
            line[name] = finite(value)
        self._file.write(json.dumps(line) + "\n")

    def rewind(self, last_step: int) -> None:
        """Drop lines of steps after `last_step`, and a half-written last line."""
        self._file.close()
        lines = list(read_metrics(self.path))
        self.reported = max((line["step"] for line in lines), default=0)
        kept = [line for line in lines if line["step"] <= last_step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._file.close()


def _drop_torn_line(path: Path) -> None:
    """Cut off a last line that a killed writer left half: the next one would be glued to it."""
    if not path.exists():
        return
    with open(path, "rb+") as file:
        content = file.read()
        if not content.endswith(b"\n"):
            file.truncate(content.rfind(b"\n") + 1)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a metrics file; a torn last line (the writer was killed) is left out."""
    if not Path(path).exists():
        return
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                if line.endswith("\n"):
                    raise

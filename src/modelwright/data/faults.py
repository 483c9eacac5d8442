"""What to do with input that cannot be read: stop and say where, or skip it and keep count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from modelwright.base.errors import DamagedFile

OnError = Literal["fail", "skip"]


class Faults:
    """Called with every fault in the input. Under "fail" the first one raises `DamagedFile`; under
    "skip" each is counted by kind, and the reader goes on behind it."""

    def __init__(
        self, on_error: OnError = "fail", record: Callable[[str, str, str], None] | None = None
    ) -> None:
        """`record` gets (where, kind, what is wrong) of everything skipped."""
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self._record = record

    def __call__(self, kind: str, where: str, problem: str) -> None:
        """`kind` is a few fixed words to count by; `where` names file and line; `problem` says more."""
        if self.on_error == "fail":
            raise DamagedFile(f"{where}: {problem}")
        self.counts[kind] += 1
        if self._record:
            self._record(where, kind, problem)

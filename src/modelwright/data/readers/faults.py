"""What to do with input that cannot be read: stop and say where, or skip it and keep count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

from modelwright.base.errors import DamagedFile
from modelwright.base.schema import Reason

OnError = Literal["fail", "skip"]


class Faults:
    """Called with every fault in the input. Under "fail" the first one raises `DamagedFile`; under
    "skip" each is counted by kind, and the reader goes on behind it.

    What is passed over although nothing is broken (a link to a file that was read, generated code, a page
    whose extraction took too long) never raises: it is counted in `passed_over`, and recorded too.
    """

    def __init__(
        self, on_error: OnError = "fail", record: Callable[[str, Reason], None] | None = None
    ) -> None:
        """`record` gets (where, Reason(kind, value, what is wrong)) of everything that is not read."""
        self.on_error = on_error
        self.counts: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self._record = record

    @property
    def left_out(self) -> Counter[str]:
        """All that is not read, by kind."""
        return self.counts + self.passed_over

    def __call__(self, kind: str, where: str, problem: str) -> None:
        """`kind` is a few fixed words to count by; `where` names file and line; `problem` says more."""
        if self.on_error == "fail":
            raise DamagedFile(f"{where}: {problem}")
        self.counts[kind] += 1
        if self._record:
            self._record(where, Reason(kind, says=problem))

    def pass_over(self, reason: Reason, where: str) -> None:
        """Count what is left out on purpose."""
        self.passed_over[reason.rule] += 1
        if self._record:
            self._record(where, reason)

"""Showing long work: a live bar on a terminal, plain lines elsewhere. All of it goes to stderr.

Work that takes over two seconds shows itself through `View.task`; what a stage has to say goes
through `View.log`. Standard output stays free for data.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from modelwright.base.metrics import figure, in_words

PLAIN_LINE_SECONDS = 5.0


class Task(Protocol):
    """One bar."""

    def advance(self, n: int = 1, **shown: float | str) -> None:
        """`n` more units are done; `shown` values stand beside the bar, e.g. loss=1.2."""
        ...


class View(Protocol):
    """Where progress and messages go."""

    def log(self, text: str) -> None: ...

    def task(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Task]: ...


def format_shown(shown: dict[str, float | str]) -> str:
    """`loss 1.234  tokens/s 12,345`: small numbers with digits, large ones with separators."""

    def words(name: str, value: float | str) -> str:
        return f"{in_words(name.replace('_per_', '/'))} {value if isinstance(value, str) else figure(value)}"

    return "  ".join(words(name, value) for name, value in shown.items())


class PlainView:
    """One line of text at most every few seconds: for logs, pipes and CI."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet

    def log(self, text: str) -> None:
        """Print a message."""
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Generator[_PlainTask]:
        """A bar as occasional lines."""
        task = _PlainTask(self, label, total, done)
        yield task
        task.finish()


class _PlainTask:
    def __init__(self, view: PlainView, label: str, total: int, done: int) -> None:
        self._view, self._label, self._total, self._done = view, label, total, done
        self._start = self._last = time.monotonic()
        self._first = done
        self._said: int | None = None
        self._shown: dict[str, float | str] = {}

    def advance(self, n: int = 1, **shown: float | str) -> None:
        self._done += n
        self._shown.update(shown)
        if time.monotonic() - self._last >= PLAIN_LINE_SECONDS:
            self._say()

    def finish(self) -> None:
        if self._said not in (None, self._done):
            self._say()

    def _say(self) -> None:
        self._last, self._said = time.monotonic(), self._done
        self._view.log(self._line())

    def _line(self) -> str:
        speed = (self._done - self._first) / max(self._last - self._start, 1e-9)
        left = (self._total - self._done) / speed if speed > 0 else 0.0
        left_text = f"  {left:,.0f} s left" if left >= 1 else ""
        return f"  {self._label} {self._done:,}/{self._total:,}  {format_shown(self._shown)}{left_text}"


class LiveView:
    """A live bar, with finished work and messages scrolling above it."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
        )
        self._depth = 0

    def log(self, text: str) -> None:
        """Print a message above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)

    @contextmanager
    def task(self, label: str, total: int, done: int = 0) -> Generator[_LiveTask]:
        """A bar; bars inside bars stand below each other."""
        identity = self._progress.add_task(label, total=total, completed=done, shown="")
        if self._depth == 0:
            self._progress.start()
        self._depth += 1
        try:
            yield _LiveTask(self._progress, identity)
        finally:
            self._depth -= 1
            self._progress.remove_task(identity)
            if self._depth == 0:
                self._progress.stop()


class _LiveTask:
    def __init__(self, progress: Progress, identity: TaskID) -> None:
        self._progress, self._identity = progress, identity
        self._shown: dict[str, float | str] = {}

    def advance(self, n: int = 1, **shown: float | str) -> None:
        self._shown.update(shown)
        self._progress.update(self._identity, advance=n, shown=format_shown(self._shown))


def choose_view(quiet: bool = False) -> PlainView | LiveView:
    """Live on a terminal, plain elsewhere or when quiet."""
    console = Console(stderr=True)
    return LiveView(console) if console.is_terminal and not quiet else PlainView(quiet)

"""Python looks for garbage when the loop says so, and as before when the loop has ended, well or not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelwright.base.schema import Batch
from modelwright.objectives.next_token import NextToken
from modelwright.training.garbage import collected_every
from modelwright.training.loop import LoopConfig

from .tiny import make_model, make_windows, train_in


class Knot:
    """Refers to itself: only a search finds that nobody else does."""

    def __init__(self) -> None:
        self.itself = self


class Knotted:
    """The tiny windows; each leaves a knot behind, and sees how many are still there."""

    def __init__(self, broken: int = -1) -> None:
        self._batches, self._broken = make_windows(), broken
        self._knots: list[weakref.ref[Knot]] = []
        self.left: list[int] = []
        self.searched: list[bool] = []

    def __getitem__(self, index: int) -> Batch:
        if index == self._broken:
            raise OSError("the disk is gone")
        self.left.append(sum(knot() is not None for knot in self._knots))
        self.searched.append(gc.isenabled())
        self._knots.append(weakref.ref(Knot()))
        return self._batches[index]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    assert gc.isenabled() and not gc.get_freeze_count()
    yield
    assert gc.isenabled() and not gc.get_freeze_count()


def test_the_loop_says_when(tmp_path: Path) -> None:
    batches = Knotted()
    train_in(tmp_path, make_model(), NextToken(), batches, 8, LoopConfig(collect_every=3))
    assert not any(batches.searched)
    assert batches.left == [0, 1, 2, 0, 1, 2, 0, 1]


def test_zero_leaves_it_to_python(tmp_path: Path) -> None:
    batches = Knotted()
    train_in(tmp_path, make_model(), NextToken(), batches, 2, LoopConfig(collect_every=0))
    assert all(batches.searched)


def test_after_an_error_all_is_as_before(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the disk is gone"):
        train_in(tmp_path, make_model(), NextToken(), Knotted(broken=4), 8, LoopConfig(collect_every=3))


def test_what_outlives_a_search_is_found_by_the_next() -> None:
    """As a copy of the state that a thread still writes does."""
    held, dropped = list[Knot](), list[weakref.ref[Knot]]()
    with collected_every(1) as collect:
        collect(1)
        for step in (2, 3, 4):
            held[:] = [Knot()]
            dropped.append(weakref.ref(held[0]))
            collect(step)
        assert [knot() is None for knot in dropped] == [True, True, False]


def test_who_had_turned_it_off_finds_it_off() -> None:
    gc.disable()
    try:
        with collected_every(2) as collect:
            collect(2)
            assert gc.get_freeze_count()
        assert not gc.isenabled()
    finally:
        gc.enable()

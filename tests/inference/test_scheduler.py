"""Who runs and in which row: plain Python, tested without a model."""

from __future__ import annotations

from modelwright.base.schema import Sampling
from modelwright.inference.scheduler import Move, Scheduler, Sequence


def sequence(number: int, length: int = 3, limit: int = 5) -> Sequence:
    return Sequence(number, (7,) * length, Sampling(), 0, frozenset({9}), limit)


def filled(slots: int, count: int, **settings: int) -> Scheduler:
    scheduler = Scheduler(slots, **settings)
    for number in range(count):
        scheduler.add(sequence(number))
    return scheduler


def test_admission_is_first_come_first_served():
    scheduler = filled(4, 6)
    assert [s.id for s in scheduler.admit()] == [0, 1, 2, 3]
    assert scheduler.admit() == [] and [s.id for s in scheduler.waiting] == [4, 5]


def test_the_last_row_fills_the_hole():
    scheduler = filled(4, 4)
    rows = scheduler.admit()
    assert scheduler.remove(rows[1]) == Move(source=3, target=1)
    assert [s.id for s in scheduler.running] == [0, 3, 2]
    assert scheduler.remove(rows[2]) == Move(source=2, target=2)
    assert [s.id for s in scheduler.running] == [0, 3]


def test_a_waiting_sequence_leaves_without_a_move():
    scheduler = filled(1, 2)
    scheduler.admit()
    assert scheduler.remove(scheduler.waiting[0]) is None and not scheduler.waiting


def test_a_crowd_enters_together_and_a_few_at_once():
    scheduler = filled(32, 40)
    scheduler.admit()
    for left in range(1, 4):
        scheduler.remove(scheduler.running[0])
        assert scheduler.admit() == [], left
    scheduler.remove(scheduler.running[0])
    assert len(scheduler.admit()) == 4
    while scheduler.waiting:
        scheduler.remove(scheduler.running[0])
        if len(scheduler.waiting) == 1:
            break
        scheduler.admit()
    assert len(scheduler.waiting) + len(scheduler.running) > 0
    few = filled(8, 8)
    few.admit()
    few.add(sequence(99))
    few.remove(few.running[0])
    assert [s.id for s in few.admit()] == [99]


def test_prefill_groups_are_bounded():
    scheduler = Scheduler(8, prefill_tokens=20)
    for number, length in enumerate([5, 5, 12, 50, 1]):
        scheduler.add(sequence(number, length))
    groups = [[s.id for s in scheduler.admit()] for _ in range(4)]
    assert groups == [[0, 1], [2], [3], [4]]


def test_a_sequence_ends_by_stop_id_or_length():
    one = sequence(0)
    one.accept(4, -1.0)
    one.accept(9, -0.5)
    assert one.finish_reason == "stop" and one.ids == [4, 9] and one.length == 5
    two = sequence(1, limit=2)
    two.accept(4, -1.0)
    assert two.finish_reason is None
    two.accept(4, -1.0)
    assert two.finish_reason == "length"

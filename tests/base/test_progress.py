"""Progress where nobody looks: few lines, each of them once."""

from __future__ import annotations

import pytest

from modelwright.base import progress
from modelwright.base.metrics import figure
from modelwright.base.progress import PlainView, format_shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that `progress` reads, to be moved on by hand."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(("slow", "lines"), [((4,), 1), ((2,), 2), ((), 0), ((1, 4), 2)])
def test_the_last_line_is_printed_once(
    clock: list[float], capsys: pytest.CaptureFixture[str], slow: tuple[int, ...], lines: int
) -> None:
    with PlainView().task("pretrain", 4) as bar:
        for step in range(1, 5):
            clock[0] += 6.0 if step in slow else 0.1
            bar.advance(1, loss=1.0 / step)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == lines
    if lines:
        assert [line for line in said if "pretrain 4/4" in line] == said[-1:] == ["  pretrain 4/4  loss 0.25"]


def test_names_are_words_and_numbers_have_separators() -> None:
    assert format_shown({"grad_norm": 0.123456, "tokens_per_s": 12345.6, "suite": "sums_anew"}) == (
        "grad norm 0.1235  tokens/s 12,346  suite sums_anew"
    )
    assert [figure(n) for n in (11_990, 1199.5, -1.7139, 12, 0.25)] == [
        "11,990", "1,200", "-1.714", "12", "0.25"
    ]  # fmt: skip

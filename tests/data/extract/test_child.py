"""A page that hangs, eats the memory or kills the parser costs one page; the next one is read."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from modelwright.base.errors import UserError
from modelwright.data.extract import child
from modelwright.data.extract.child import NotExtracted, extract
from modelwright.data.extract.limits import Limits

pytest.importorskip("resiliparse")

PAGE = b"<html><nav>menu</nav><p>Gr\xc3\xbc\xc3\x9fe</p></html>"
ENDLESS = b"<div>x" * 100_000
"""Elements so deeply nested that the parser works for longer than anybody waits."""


@pytest.fixture(autouse=True)
def no_children_of_others() -> Iterator[None]:
    child.close_all()
    yield
    child.close_all()


def pid() -> int:
    (only,) = [each for each in child._children.values() if each.alive]
    return only.pid


def refused(content: bytes, limits: Limits) -> child.Reason:
    with pytest.raises(NotExtracted) as error:
        extract("resiliparse", content, limits)
    return error.value.reason


def test_one_child_reads_page_after_page() -> None:
    assert extract("resiliparse", PAGE, Limits()) == "Grüße"
    first = pid()
    assert extract("resiliparse", PAGE * 3, Limits()) == "Grüße\n\nGrüße\n\nGrüße"
    assert pid() == first
    large = b"<p>" + b"word " * 400_000  # more than a pipe holds
    assert len(extract("resiliparse", large, Limits())) == 5 * 400_000 - 1


def test_a_page_that_never_ends_costs_itself() -> None:
    limits = Limits(seconds_per_document=0.5)
    reason = refused(ENDLESS, limits)
    assert (reason.rule, reason.value) == ("extraction timed out", 0.5)
    assert extract("resiliparse", PAGE, Limits()) == "Grüße"


def test_a_child_that_stands_still_is_replaced() -> None:
    assert extract("resiliparse", PAGE, Limits()) == "Grüße"
    stopped = pid()
    os.kill(stopped, signal.SIGSTOP)
    assert refused(b"x" * 1_000_000, Limits(seconds_per_document=0.3)).rule == "extraction timed out"
    assert extract("resiliparse", PAGE, Limits()) == "Grüße"
    assert pid() != stopped


def test_a_page_that_eats_the_memory_costs_itself() -> None:
    limits = Limits(memory_bytes=150 << 20)
    assert refused(b"<p>a<b>c" * 5_000_000, limits).rule in (
        "extraction ran out of memory",
        "extraction crashed",
    )
    assert extract("resiliparse", PAGE, limits) == "Grüße"


def test_a_killed_child_is_replaced_and_nothing_is_lost() -> None:
    assert extract("resiliparse", PAGE, Limits()) == "Grüße"
    killed = pid()
    os.kill(killed, signal.SIGKILL)
    assert extract("resiliparse", PAGE, Limits()) == "Grüße"
    assert pid() != killed


def test_a_document_that_kills_its_child_twice_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    send = child.Child._send

    def killing(self: child.Child, content: memoryview) -> int:
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        return send(self, content)

    monkeypatch.setattr(child.Child, "_send", killing)
    reason = refused(PAGE, Limits())
    assert (reason.rule, reason.value) == ("extraction crashed", "SIGKILL")


def test_what_the_parser_says_is_passed_on() -> None:
    with pytest.raises(NotExtracted, match="extraction failed: UnicodeDecodeError"):
        extract("plain", b"\xff", Limits())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"needs the package trafilatura\. Run: pip install 'modelwright\[traf"
    ):
        extract("trafilatura", PAGE, Limits())

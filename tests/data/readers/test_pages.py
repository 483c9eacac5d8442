"""A page that cannot be read costs itself, is counted, and stops nothing, also where faults do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.schema import Reason
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.read import read
from modelwright.data.readers.source import Source

pytest.importorskip("resiliparse")

ENDLESS = "<div>x" * 100_000


def test_endless_pages_are_passed_over_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(ENDLESS)
    (tmp_path / "b.html").write_text("<p>good")
    rows = [{"page": "<p>one"}, {"page": ENDLESS}, {"page": "<p>three"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recorded: list[tuple[str, Reason]] = []
    faults = Faults("fail", lambda where, reason: recorded.append((where, reason)))
    settings: dict[str, Any] = {"text_field": "page", "html": True, "limits": {"seconds_per_document": 0.5}}
    texts = [d.text for d in read(Source(path=str(tmp_path), **settings), faults)]
    assert texts == ["good", "one", "three"]
    assert faults.passed_over == {"extraction timed out": 2} and not faults.counts
    assert [(where.rsplit("/", 1)[1], reason.value) for where, reason in recorded] == [
        ("a.html", 0.5),
        ("c.jsonl, line 2", 0.5),
    ]


def test_the_extractor_is_a_setting(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<html><body><nav>menu</nav><p>text</p></body></html>")
    texts = {
        how: next(read(Source(path=str(tmp_path), extract=how), Faults())).text
        for how in ("resiliparse", "plain")
    }
    assert texts == {"resiliparse": "text", "plain": "menu\n\ntext"}

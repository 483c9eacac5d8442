"""The report of a corpus: what it says is what happened, and it shows nothing that it must not."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.evaluation.test_report import read

from modelwright.base.artifact import Artifact
from modelwright.base.config import validate
from modelwright.base.errors import UserError
from modelwright.base.files import sha256_text
from modelwright.base.run import Run
from modelwright.base.schema import Document, Reason
from modelwright.data.execution import run as execution
from modelwright.data.pipeline.samples import Group
from modelwright.data.pipeline.shard import Shard
from modelwright.evaluation.plots import histogram
from modelwright.stages import prepare
from modelwright.stages.corpus_report import funnel, power_of_two, total
from modelwright.terminal import manifests

EVIL = '</script></style><script>alert(1)</script><img src=x onerror="alert(2)">&{{ 7*7 }}'
WORDS = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog while rain falls on old stone walls")


def story(seed: int) -> str:
    random_ = random.Random(seed)
    return " ".join(" ".join(random_.choices(WORDS, k=9)) + f" {seed * 97 + n}." for n in range(30))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    texts = [story(seed) for seed in range(30)]
    texts += [texts[3], texts[4].replace("fox", "cat", 1), f"{EVIL} {story(50)}", story(51) + " " + EVIL]
    texts += ["short: write to jane.roe@private-mail.de", f"short {EVIL}", "What is the capital of France?"]
    path = tmp_path / "tales" / "all.jsonl"
    path.parent.mkdir()
    rows = [json.dumps({"text": text}) for text in texts]
    path.write_text("\n".join([*rows, "{broken"]) + "\n", encoding="utf-8")
    return path.parent


SETTINGS: dict[str, Any] = {
    "filters": [{"name": "length", "min_characters": 100}, {"name": "privacy"}],
    "duplicates": {"near": {}, "lines": {}, "passages": {}},
    "on_error": "skip",
    "validation_fraction": 0.1,
}


def work(folder: Path, source: Path, **settings: Any) -> Artifact:
    named = {"path": str(source), "name": f"tales {EVIL}", "licence": "MIT"}
    config = validate(prepare.Config, {"sources": [named], **SETTINGS, **settings}, "data")
    run = Run(folder, "prepare", "corpus", config, 1)
    try:
        return prepare.run(config, run)
    finally:
        run.close()


def test_it_says_where_all_went_and_hostile_text_stays_text(source: Path, tmp_path: Path) -> None:
    made = work(tmp_path / "p", source)
    assert "report.html" in {file.path for file in made.manifest.files}
    page, text = read(made.file("report.html"))
    assert "<script" not in page and "<img" not in page and EVIL in text and text[:2] != "49"
    for words in (
        "37 documents", "length: too short 3", "duplicates: exact duplicate 1", "not JSON 1",
        "2 documents beyond the first of 2 clusters", "legal basis, retention unknown", "all.jsonl, line 35",
        "at least 100", "Would it have been found?", "of all items", "arithmetic", "dropped",
    ):  # fmt: skip
        assert words in text, words
    planted, found = map(int, re.search(r"verbatim (\d+) (\d+)", text).groups())  # type: ignore[union-attr]
    assert found == planted > 100
    assert "jane.roe" not in page and "&lt;EMAIL&gt;" in page
    assert str(tmp_path) not in page


def test_the_same_page_for_any_number_of_workers_and_any_place(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"unit_bytes": 8000, "decontaminate": {"enabled": False}}
    pages = [work(tmp_path / "here", source, **settings).file("report.html").read_bytes()]
    monkeypatch.setattr(execution, "SMALL_BYTES", 0)
    moved = source.rename(tmp_path / "elsewhere")
    again = work(tmp_path / "2", moved, execution={"workers": 2}, **settings)
    assert again.file("report.html").read_bytes() == pages[0]


def test_what_is_forgotten_or_not_to_be_kept_is_not_shown(source: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"decontaminate": {"enabled": False}, "duplicates": {"near": {}}}
    shown = read(work(tmp_path / "a", source, **settings).file("report.html"))[1]
    assert story(4)[:60] in shown
    forget = [sha256_text(story(4)), sha256_text(story(3))]
    page, _ = read(work(tmp_path / "b", source, forget=forget, **settings).file("report.html"))
    assert story(4)[:60] not in page and story(3)[:60] not in page and "forgotten" in page
    page, _ = read(work(tmp_path / "c", source, keep_dropped="nothing", **settings).file("report.html"))
    assert "<details>" not in page.split('id="sources"')[0] and "too short" in page


def test_a_corpus_of_nothing_has_its_report_too(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no document is left"):
        work(tmp_path / "p", source, filters=[{"name": "length", "min_characters": 10**6}])
    _, text = read(tmp_path / "p" / "report.html")
    assert "length: too short" in text and "0 documents, 0 bytes" in text


def test_the_embedded_corpus_passes_by_the_suites(tmp_path: Path, source: Path) -> None:
    sources = [{"path": str(source), "name": "tales"}, "atlas"]
    made = work(tmp_path / "p", source, sources=sources, atlas_size_bytes=30_000)
    steps = {step["step"]: step["documents"] for step in made.metrics["steps"]}
    assert steps["decontaminate"] == made.metrics["train_documents"] + made.metrics["validation_documents"]


def test_show_is_brief(source: Path, tmp_path: Path) -> None:
    made = work(tmp_path / "p", source, decontaminate={"enabled": False})
    said = manifests.describe(made)
    assert "read, documents 37, bytes" in said and story(4)[:40] not in said
    metrics = manifests.brief(
        {"a": list(range(99)), "b": [{"x": "y" * 999}] * 99, "c": {"n": dict.fromkeys(WORDS)}}
    )
    assert len(json.dumps(metrics)) < 3000 and metrics["b"][-1] == "87 more"


def flow(*counts: tuple[str, int]) -> Shard:
    flows = [{"step": step, "documents": count, "bytes": 10 * count} for step, count in counts]
    return Shard(mark="", rows_in=0, rows_out=0, bytes_out=0, files=(), about={"flows": flows})


def test_units_without_a_step_keep_their_counts() -> None:
    cleaned = [flow(("read", 9), ("length", 8)), flow(("read", 5), ("length", 5))]
    written = [
        flow(("read", 8), ("duplicates", 7), ("decontaminate", 6)),
        flow(("read", 5), ("duplicates", 4)),
    ]
    rows = funnel(cleaned, written)
    assert [(row["step"], row["documents"]) for row in rows] == [
        ("read", 14), ("length", 13), ("duplicates", 11), ("decontaminate", 10),
    ]  # fmt: skip
    assert rows[1]["documents_change"] == pytest.approx(-1 / 14)


@given(st.lists(st.text(max_size=5), max_size=40), st.integers(0, 40), st.integers(1, 4))
def test_samples_do_not_depend_on_order_or_units(texts: list[str], cut: int, keeps: int) -> None:
    def group(texts: list[str]) -> dict[str, Any]:
        made = Group(keeps)
        for text in texts:
            made.add(Document(text=text, id=sha256_text(text), source="s"), Reason("r", len(text)))
        return made.as_json()

    whole = group(texts)
    assert total([group(texts[:cut]), group(texts[cut:])], keeps) == total([whole], keeps)
    assert group(texts[::-1]) == whole and whole["documents"] == len(texts)
    assert len(whole["samples"]) == min(keeps, len(set(texts)))


def test_plots_are_escaped_and_powers_have_names() -> None:
    assert "<script" not in histogram([(EVIL, 3), ("b", 0)], EVIL, EVIL, EVIL)
    assert histogram([], "x", "y", "t") == histogram([("a", 0)], "x", "y", "t") == ""
    assert [power_of_two(n) for n in (0, 9, 10, 14, 20)] == ["1", "512", "1k", "16k", "1M"]

"""prepare at work: the same bytes whoever does it, and nothing lost when it is killed or fed poison."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests import children
from tests.data.pipeline.stories import killed_after, story, work

from modelwright.base.artifact import Artifact
from modelwright.base.errors import DamagedFile
from modelwright.data import filters as package
from modelwright.data.corpus import read_corpus
from modelwright.data.execution import run as execution
from modelwright.data.pipeline.shard import check_shard, make_shard
from modelwright.stages import prepare


def test_repetitions_go_and_are_accounted_for(whole: Artifact) -> None:
    documents = [d for side in ("train", "validation") for d in read_corpus(whole.file(side))]
    numbers = {(d.meta["file"], d.meta["n"]) for d in documents}
    assert ("3.jsonl", 10) not in numbers and ("3.jsonl", 11) not in numbers and len(documents) == 118
    assert whole.metrics["dropped"] == {"exact duplicate": 1, "near duplicate": 1}
    passage = story(999, 6)
    assert sum(passage in d.text for d in documents) == 1
    shortened = next(d for d in documents if (d.meta["file"], d.meta["n"]) == ("3.jsonl", 20))
    assert passage not in shortened.text and shortened.text.startswith(story(1002)[:200])
    rows = pq.read_table(whole.file("dropped")).to_pylist()
    assert {(row["rule"], row["place"]) for row in rows} == {
        ("exact duplicate", "3.jsonl, line 11"),
        ("near duplicate", "3.jsonl, line 12"),
    }
    assert whole.metrics["near_duplicates"]["clusters"] == 2


def test_the_same_bytes_for_any_number_of_workers(
    source: Path, whole: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "SMALL_BYTES", 0)
    ids = {work(tmp_path / f"{n}", source, execution={"workers": n}).id for n in (1, 3)}
    assert ids == {whole.id}
    assert not (tmp_path / "3" / "work").exists()


def test_units_do_not_change_what_is_kept(source: Path, tmp_path: Path) -> None:
    made = [work(tmp_path / f"{size}", source, unit_bytes=size) for size in (5_000, 1 << 26)]
    kept = [[d for d in read_corpus(each.file("train"))] for each in made]
    assert kept[0] == kept[1] and made[0].metrics["dropped"] == made[1].metrics["dropped"]


def test_killed_at_any_moment_it_goes_on(source: Path, whole: Artifact, tmp_path: Path) -> None:
    folder, errors = tmp_path / "killed", tmp_path / "errors"
    codes = [children.run(errors, killed_after, at, folder, source) for at in (0.2, 0.6, 1.0)]
    assert codes[0] == -signal.SIGKILL and {*codes} <= {0, -signal.SIGKILL}, errors.read_text()
    assert work(folder, source).id == whole.id


def test_a_shard_that_was_damaged_between_sessions_is_made_anew(
    source: Path, whole: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "damaged"
    monkeypatch.setattr(prepare, "assemble", lambda *_: (_ for _ in ()).throw(DamagedFile("stop here")))
    with pytest.raises(DamagedFile, match="stop here"):
        work(folder, source)
    shards = sorted((folder / "work" / "clean").glob("*/documents.parquet"))
    before = {path: path.stat().st_mtime_ns for path in shards}
    shards[1].write_bytes(shards[1].read_bytes()[:-7])
    monkeypatch.undo()
    monkeypatch.setattr(prepare.shutil, "rmtree", lambda *_, **__: None)
    assert work(folder, source).id == whole.id
    after = {path: path.stat().st_mtime_ns for path in shards}
    assert [after[path] == before[path] for path in shards] == [n != 1 for n in range(len(shards))]


def test_the_next_phase_refuses_a_damaged_shard(tmp_path: Path) -> None:
    def make(target: Path) -> tuple[int, int, int, dict[str, Any]]:
        (target / "rows.txt").write_text("one two three")
        return 3, 3, 13, {}

    target = tmp_path / "unit"
    shard = make_shard(target, "mark", make)
    assert check_shard(target) == shard == make_shard(target, "mark", lambda _: pytest.fail("made again"))
    (target / "rows.txt").write_text("one two thref")
    with pytest.raises(DamagedFile, match=r"rows\.txt is not what was written"):
        check_shard(target)
    assert make_shard(target, "mark", make) == shard
    assert make_shard(target, "other", make).mark == "other"


def test_a_poisoned_document_costs_one_document(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = tmp_path / "filters"
    filters.mkdir()
    (filters / "deadly.py").write_text(
        "import os, signal\n"
        "from modelwright.base import config\n"
        "from modelwright.data.steps import judging\n"
        "class Config(config.Config):\n    pass\n"
        "def judge(document):\n"
        "    if document.meta['n'] == 7 and document.meta['file'] == '1.jsonl':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "def step(config):\n    return judging(judge)\n"
    )
    # A stranger's filter, found by this process and, through a path of their own, by its workers.
    added = f"from modelwright.data import filters; filters.__path__.append({str(filters)!r})"
    (tmp_path / "sitecustomize.py").write_text(added)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(filters)])
    monkeypatch.setattr(execution, "SMALL_BYTES", 0)
    settings = {"filters": [{"name": "deadly"}], "execution": {"workers": 2}}
    with pytest.raises(DamagedFile, match=r"1\.jsonl, line 8: two processes died on this document"):
        work(tmp_path / "fail", source, **settings)
    made = work(tmp_path / "skip", source, on_error="skip", **settings)
    assert made.metrics["skipped"] == {"killed its process": 1}
    assert made.metrics["train_documents"] + made.metrics["validation_documents"] == 117

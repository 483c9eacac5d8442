"""prepare at work: the same bytes whoever does it, and nothing lost when it is killed or fed poison."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import validate
from modelwright.base.errors import DamagedFile
from modelwright.base.run import Run
from modelwright.data import filters as package
from modelwright.data.corpus import read_corpus
from modelwright.data.execution import run as execution
from modelwright.data.pipeline.shard import check_shard, make_shard
from modelwright.stages import prepare

WORDS = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog while rain falls on old stone walls")


def sentence(random_: random.Random) -> str:
    return " ".join(random_.choices(WORDS, k=random_.randint(6, 14))).capitalize() + "."


def story(seed: int, sentences: int = 20) -> str:
    random_ = random.Random(seed)
    return " ".join(sentence(random_) + f" It was number {seed * 31 + n}." for n in range(sentences))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Rows with exact, near and partial repetitions, some of them far apart."""
    stories = [story(seed) for seed in range(120)]
    passage = story(999, 6)
    stories[100] = stories[3]
    stories[101] = stories[4].replace("fox", "cat", 1)
    stories[102] = story(1000) + " " + passage + " " + story(1001)
    stories[110] = story(1002) + " " + passage + " " + story(1003)
    folder = tmp_path / "source"
    folder.mkdir()
    for part in range(4):
        rows = [{"text": text, "n": n} for n, text in enumerate(stories[part * 30 : part * 30 + 30])]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    return folder


SETTINGS: dict[str, Any] = {
    "unit_bytes": 20_000,
    "duplicates": {"near": {}, "lines": {}, "passages": {}},
    "filters": [{"name": "length", "min_characters": 100}],
    "validation_fraction": 0.1,
    "decontaminate": {"enabled": False},
}


def work(folder: Path, source: Path, **settings: Any) -> Artifact:
    config = validate(prepare.Config, {"sources": [str(source)], **SETTINGS, **settings}, "data")
    run = Run(folder, "prepare", "corpus", config, 1)
    try:
        return prepare.run(config, run)
    finally:
        run.close()


def test_repetitions_go_and_are_accounted_for(source: Path, tmp_path: Path) -> None:
    made = work(tmp_path / "a", source)
    documents = [d for side in ("train", "validation") for d in read_corpus(made.file(side))]
    numbers = {(d.meta["file"], d.meta["n"]) for d in documents}
    assert ("3.jsonl", 10) not in numbers and ("3.jsonl", 11) not in numbers and len(documents) == 118
    assert made.metrics["dropped"] == {"exact duplicate": 1, "near duplicate": 1}
    passage = story(999, 6)
    assert sum(passage in d.text for d in documents) == 1
    shortened = next(d for d in documents if (d.meta["file"], d.meta["n"]) == ("3.jsonl", 20))
    assert passage not in shortened.text and shortened.text.startswith(story(1002)[:200])
    rows = pq.read_table(made.file("dropped")).to_pylist()
    assert {(row["rule"], row["place"]) for row in rows} == {
        ("exact duplicate", "3.jsonl, line 11"),
        ("near duplicate", "3.jsonl, line 12"),
    }
    assert made.metrics["near_duplicates"]["clusters"] == 2


def test_the_same_bytes_for_any_number_of_workers(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = work(tmp_path / "here", source)
    monkeypatch.setattr(execution, "SMALL_BYTES", 0)
    ids = {work(tmp_path / f"{n}", source, execution={"workers": n}).id for n in (1, 3)}
    assert ids == {here.id}
    assert not (tmp_path / "3" / "work").exists()


def test_units_do_not_change_what_is_kept(source: Path, tmp_path: Path) -> None:
    made = [work(tmp_path / f"{size}", source, unit_bytes=size) for size in (5_000, 1 << 26)]
    kept = [[d for d in read_corpus(each.file("train"))] for each in made]
    assert kept[0] == kept[1] and made[0].metrics["dropped"] == made[1].metrics["dropped"]


KILLED = """
import sys
from pathlib import Path
from tests.data.pipeline.test_prepare_at_work import work
work(Path(sys.argv[1]), Path(sys.argv[2]), execution={"workers": 2})
"""


def test_killed_at_any_moment_it_goes_on(source: Path, tmp_path: Path) -> None:
    whole = work(tmp_path / "whole", source)
    folder = tmp_path / "killed"
    for seconds in (1.2, 1.8, 2.4):
        command = [sys.executable, "-c", KILLED, str(folder), str(source)]
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert work(folder, source).id == whole.id


def test_a_shard_that_was_damaged_between_sessions_is_made_anew(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = work(tmp_path / "whole", source)
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


def test_the_next_phase_refuses_a_damaged_shard(source: Path, tmp_path: Path) -> None:
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

"""prepare under faults: documents that kill where they are read, cleaned or written; disks that are full."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tests.data.pipeline.stories import story, work

from modelwright.base.artifact import Artifact
from modelwright.base.errors import DamagedFile
from modelwright.base.files import sha256_text
from modelwright.data.corpus import read_corpus
from modelwright.data.pipeline.plan import Plan, read_plan, read_unit, write_plan
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.units import units
from modelwright.data.sources import describe

DEADLY, RAISING = "os.kill(os.getpid(), signal.SIGKILL)", "raise KeyError('a table')"
SITE = """
import os, signal
from modelwright.data.dedup import minhash
from modelwright.data.pipeline import repeats
from modelwright.data.readers import jsonl

signatures, remove, rows = minhash.signatures, repeats.remove, jsonl.rows

def die_if(hit):
    if hit:
        HARM

def deadly_signatures(texts, config):
    die_if(any("number 2000" in text for text in texts))
    return signatures(texts, config)

def deadly_remove(document, ranges, removal):
    die_if("number 3000" in document.text)
    return remove(document, ranges, removal)

def deadly_rows(part, faults):
    for number, row in enumerate(rows(part, faults)):
        die_if(part.file == "9.jsonl" and number == 4)
        yield row

minhash.signatures, repeats.remove, jsonl.rows = deadly_signatures, deadly_remove, deadly_rows
"""


def harmed(folder: Path, monkeypatch: pytest.MonkeyPatch, harm: str) -> None:
    """Libraries that do harm on certain documents, in workers alone."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE.replace("HARM", harm))
    monkeypatch.syspath_prepend(str(folder))


def rows(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


@pytest.mark.parametrize(
    ("harm", "kind", "signed", "cut", "read"),
    [
        (DEADLY, "killed its process", *["two processes died"] * 3),
        (
            RAISING,
            "raised an error",
            "what follows the steps raised KeyError: 'a table' (sitecustomize.py",
            "the step 'repeats' raised KeyError: 'a table' (sitecustomize.py",
            "the step 'read' raised KeyError: 'a table' (sitecustomize.py",
        ),
    ],
    ids=["die", "raise"],
)
def test_the_right_document_is_blamed_in_every_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: str, kind: str, signed: str, cut: str, read: str
) -> None:
    harmed(tmp_path / "site", monkeypatch, harm)
    folder = tmp_path / "source"
    folder.mkdir()
    rows(folder / "1.jsonl", [story(seed, 5) for seed in range(30)])
    second = "This is number 2000. " + story(32, 5)
    rows(folder / "2.jsonl", [story(31, 5), second, story(33, 5)])
    rows(folder / "3.jsonl", [story(34, 5), "This is number 3000. " + story(35, 5), story(36, 5)])
    rows(folder / "9.jsonl", [story(seed, 5) for seed in range(40, 50)])
    settings: dict[str, Any] = {"unit_bytes": 1 << 20, "keep_dropped": "reasons"}
    with pytest.raises(DamagedFile) as stopped:
        work(tmp_path / "fail", folder, **settings)
    said = str(stopped.value)
    assert f"2.jsonl, line 2: {signed}" in said and f"on this document ({sha256_text(second)})" in said
    made = work(tmp_path / "skip", folder, on_error="skip", **settings)
    went = {
        row["place"].rpartition("/")[2].removeprefix("source: "): row["says"]
        for row in pq.read_table(made.file("dropped")).to_pylist()
    }
    assert set(went) == {
        "2.jsonl, line 2",
        "3.jsonl, line 2",
        "9.jsonl, all behind the first 4 documents of it",
    }
    assert signed in went["2.jsonl, line 2"] and sha256_text(second) in went["2.jsonl, line 2"]
    assert cut in went["3.jsonl, line 2"] and "while it was written" in went["3.jsonl, line 2"]
    assert read in went["9.jsonl, all behind the first 4 documents of it"]
    kept = [d for side in ("train", "validation") for d in read_corpus(made.file(side))]
    assert len(kept) == 30 + 2 + 2 + 4
    assert made.metrics["skipped"] == {kind: 2} and made.metrics["dropped"] == {kind: 1}


FULL = """
import json, os, resource, subprocess, sys
from pathlib import Path
import numpy as np
from modelwright.base.errors import UserError
from modelwright.data.dedup.arrays import new_npy
from tests.data.pipeline.stories import work

place, source = Path(sys.argv[1]), Path(sys.argv[2])
said = []
try:
    new_npy(place / "large.npy", np.int64, 1 << 20)[:] = 1  # SIGBUS, if it were sparse
except OSError as error:
    said.append(str(error))
(place / "large.npy").unlink()
for size in (40, 350, 600, 4000):
    subprocess.run(["mount", "-o", f"remount,size={size}k", str(place)], check=True)
    try:
        print(json.dumps({"said": said, "id": work(place / "run", source).id}))
        break
    except UserError as error:
        said.append(str(error))
"""


def python(code: str, *arguments: Path, before: str = "") -> subprocess.CompletedProcess[str]:
    inner = " ".join(["exec", sys.executable, "-c", '"$0"', '"$@"'])
    command = ["sh", "-c", before + inner, code, *map(str, arguments)]
    if before.startswith("mount"):
        command = ["unshare", "-rm", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_disk_that_is_full_again_and_again_loses_nothing(
    source: Path, whole: Artifact, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounting = f"mount -t tmpfs -o size=1000k none {small}"
    permitted = subprocess.run(["unshare", "-rm", "sh", "-c", mounting], capture_output=True, check=False)
    if permitted.returncode:
        pytest.skip(f"no file system may be mounted here: {permitted.stderr.decode().strip()}")
    done = python(FULL, small, source, before=f"{mounting} && ")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert "No space left" in found["said"].pop(0) and len(found["said"]) >= 2
    assert all(
        re.search(r"the disk is full: [\d,]+ bytes are left at .*small", said) for said in found["said"]
    )
    assert found["id"] == whole.id


LIMITED = """
import resource, sys
from pathlib import Path
from modelwright.base.errors import UserError
from tests.data.pipeline.stories import work

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, most))
try:
    work(Path(sys.argv[1]), Path(sys.argv[2]))
except UserError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(work(Path(sys.argv[1]), Path(sys.argv[2])).id)
"""


def test_a_limit_of_file_sizes_is_named(source: Path, whole: Artifact, tmp_path: Path) -> None:
    done = python(LIMITED, tmp_path / "run", source)
    said, identity = done.stdout.splitlines()
    assert "no file may be over 20,000 bytes: ulimit -f" in said
    assert identity == whole.id


def test_a_process_that_stays_sees_a_new_plan_and_a_unit_alone(source: Path, tmp_path: Path) -> None:
    for seed, unit_bytes in ((1, 5_000), (2, 10_000)):
        plan = Plan(sources=(str(source),), unit_bytes=unit_bytes)  # type: ignore[arg-type]
        expected = list(units(plan.sources, unit_bytes, Faults()))
        planned = write_plan(tmp_path, plan, seed, iter(expected))
        assert read_plan(tmp_path) == (plan, seed)
        assert [read_unit(tmp_path, number) for number in range(len(planned.sources))] == expected
        files = sum(path.stat().st_size for path in source.iterdir())
        assert planned.num_bytes == planned.file_bytes == files


def test_units_hash_the_files_that_begin_in_them(source: Path, tmp_path: Path) -> None:
    made = work(tmp_path / "a", source, unit_bytes=5_000)
    config = Plan(sources=(str(source),))  # type: ignore[arg-type]
    assert json.loads(made.file("sources.json").read_text()) == [
        f.model_dump() for f in describe(config.sources)
    ]

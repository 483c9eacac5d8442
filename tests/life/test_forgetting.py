"""Forgetting is complete: nothing of a text is left anywhere in a run directory, wherever it had got to, and
whenever the command was killed."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.files import sha256_text
from modelwright.base.progress import PlainView
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus
from modelwright.data.split import SIDES
from modelwright.life import Life, forget
from modelwright.recipes.recipe import Recipe
from modelwright.terminal.lineage import show_seen
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards

QUIET = PlainView(quiet=True)
MARK = "zanzibar"
"""Stands in the text that is to be forgotten, in its pieces and copies, and nowhere else."""


def words(seed: str, mark: str = "") -> str:
    """A text that is like no other, with a mark in every sentence."""
    draw = random.Random(seed)
    sentences = (
        " ".join([mark, *("".join(draw.choices("aeioudlmnrst", k=5)) for _ in range(9))]) for _ in range(30)
    )
    return " ".join(f"{sentence.strip()}." for sentence in sentences)


def page(number: int) -> str:
    return words(f"page {number}", MARK)


DIARY = "\n\n".join([page(1), page(2), f"The end of {MARK}."])
"""Two pieces, and a third one that is dropped because it is short."""


class Nothing(Config):
    """No settings."""


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and its shards; the diary is there whole, twice, and a page of it nearly."""
    root = tmp_path_factory.mktemp("lived")
    for name in ("diaries", "owls", "run"):
        (root / name).mkdir()
    (root / "diaries" / "a.txt").write_text(DIARY)
    (root / "diaries" / "b.txt").write_text(DIARY)
    (root / "owls" / "nearly.txt").write_text(page(1).replace(".", "!", 1))
    for number in range(12):
        text = words(f"owl {number}")
        (root / "owls" / f"{number}.txt").write_text(text)
    return live(root)


def live(root: Path) -> Path:
    recipe = Recipe(
        name="x",
        stages=("prepare", "tokenize"),
        data={
            "sources": [{"path": str(root / name), "name": name} for name in ("diaries", "owls")],
            "max_document_characters": len(page(2)) + 10,
            "filters": [{"name": "length", "min_characters": 60}],
            "duplicates": {"near": {}},
            "decontaminate": {"enabled": False},
            "keep_dropped": "texts",
            "unit_bytes": 8192,
        },
        tokenizer={"vocab_size": 300},
    )
    Life(recipe, root / "run", QUIET).run(recipe.stages)
    return root / "run"


@pytest.fixture
def run(lived: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(lived, tmp_path / "runs" / "run")
    return tmp_path / "runs" / "run"


def documents(run: Path) -> list[Document]:
    """Of both sides."""
    return [each for side in SIDES for each in read_corpus(run / "prepare" / side)]


def holding(folder: Path) -> list[str]:
    """Every file below a folder of which the bytes, or the texts in Parquet or in shards, have the mark."""
    return sorted({path.relative_to(folder).as_posix() for path in files(folder) if has_mark(path)})


def files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file())


def has_mark(path: Path) -> bool:
    content = path.read_bytes()
    if MARK.encode() in content:
        return True
    if content[:4] == b"PAR1" and content[-4:] == b"PAR1":
        return any(MARK in str(row) for row in pq.read_table(io.BytesIO(content)).to_pylist())
    if path.name == "index.json" and (path.parents[1] / "tokenizer").is_dir():
        shards = TokenShards.open(path.parent)
        text = BPETokenizer.load(path.parents[1] / "tokenizer").decode(shards.read(0, len(shards)).tolist())
        return MARK in text
    return False


def leave_traces(run: Path) -> None:
    """What a life with interruptions and other recipes leaves in its directory."""
    for made in ("pretrain/checkpoints/step-1/model.bin", "study/cells/x/shard.bin", ".tmp-1-x/a.bin"):
        (run / made).parent.mkdir(parents=True)
        (run / made).write_text(MARK)
    (run / "pretrain" / "started.json").write_text("{}")
    (run / "report.html").write_text(MARK)
    shutil.copytree(run / "prepare", run / "replaced" / "prepare-1")
    tokens = Artifact.load(run / "tokenize")
    stale = Run(run / "finetune", "finetune", "sft", Nothing(), 1, {"tokens": tokens})
    (run / "finetune" / "model.bin").write_text(MARK)
    made = stale.finish(["model.bin"])
    manifest = json.loads((run / "finetune" / "manifest.json").read_text())
    manifest["parents"][0]["id"] = "0" * 64  # of an earlier corpus
    (run / "finetune" / "manifest.json").write_text(json.dumps(manifest))
    assert made.manifest.provenance.sources


def test_a_document_its_pieces_and_its_copies_leave_no_trace(run: Path) -> None:
    leave_traces(run)
    places = holding(run)
    dropped = [place for place in places if place.startswith("prepare/dropped/")]
    assert len(places) > 8 and dropped and "tokenize/train/index.json" in places
    others = {d.id for d in documents(run) if MARK not in d.text}
    (seen,) = forget(run, [sha256_text(DIARY)[:12]], QUIET, yes=False)
    assert holding(run) == places
    assert sum(place.documents for place in seen.shards if place.side == "dropped") == 4
    assert sum(place.copies for place in seen.shards) >= 1
    forget(run, [sha256_text(DIARY)[:12]], QUIET, yes=True)
    assert holding(run) == []
    assert {d.id for d in documents(run)} == others
    assert sorted(path.name for path in run.iterdir() if path.is_dir()) == ["prepare", "tokenize"]
    assert all(Artifact.load(run / verb).damage(hashes=True) is None for verb in ("prepare", "tokenize"))
    assert (run / "report.html").is_file() and not (run / "forgetting.json").exists()


def test_prepared_anew_it_leaves_no_trace_either(run: Path, tmp_path: Path) -> None:
    forget(run, [sha256_text(DIARY)], QUIET, yes=True)
    recipe = Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text()))
    Life(recipe, tmp_path / "anew", QUIET).run(["prepare"])
    assert holding(tmp_path / "anew") == []
    for side in SIDES:
        edited, anew = (list(read_corpus(each / "prepare" / side)) for each in (run, tmp_path / "anew"))
        assert edited == anew


def test_a_source_leaves_no_trace(run: Path) -> None:
    leave_traces(run)
    (run.parent.parent / "other").mkdir()
    forget(run, ["diaries"], QUIET, yes=True)
    left = documents(run)
    assert [d.source for d in left if MARK in d.text] == [
        "owls"
    ]  # what was held to repeat it is a text of its own
    forget(run, [next(d.id for d in left if MARK in d.text)], QUIET, yes=True)
    assert holding(run) == []


def test_what_was_only_dropped_is_found_and_nothing_is_made_again(run: Path) -> None:
    rows = pq.read_table(run / "prepare" / "dropped").to_pylist()
    short = next(row for row in rows if row["rule"] == "too short")
    assert short["whole"] == sha256_text(DIARY)
    marks = {path: path.stat().st_mtime_ns for path in run.glob("tokenize/**/*")}
    corpus = Artifact.load(run / "prepare").id
    (seen,) = forget(run, [short["id"]], QUIET, yes=True)
    assert seen.again == () and seen.target.wholes == {sha256_text(DIARY)}
    assert {path: path.stat().st_mtime_ns for path in run.glob("tokenize/**/*")} == marks
    assert Artifact.load(run / "prepare").id == corpus and Artifact.load(run / "prepare").damage() is None
    rows = pq.read_table(run / "prepare" / "dropped").to_pylist()
    assert short["id"] not in {row["id"] for row in rows}


def test_a_near_copy_says_of_which_document_and_where_that_stood(run: Path) -> None:
    rows = pq.read_table(run / "prepare" / "dropped").to_pylist()
    near = next(row for row in rows if row["rule"] == "near duplicate")
    exact = next(row for row in rows if row["rule"] == "exact duplicate")
    assert near["says"].endswith("of diaries: a.txt, piece 1") and near["place"] == "nearly.txt"
    assert exact["says"].endswith("of diaries: a.txt, piece 1") and exact["place"] == "b.txt, piece 1"
    (seen,) = forget(run, [near["id"]], QUIET, yes=False)
    assert seen.target.originals == {near["earlier"]} and seen.again == ()


def test_it_stays_forgotten_whatever_recipe_comes_next(run: Path) -> None:
    recipe = Recipe.model_validate(yaml.safe_load((run / "recipe.yaml").read_text()))
    forget(run, ["diaries"], QUIET, yes=True)
    (made,) = Life(recipe, run, QUIET).run(["prepare"])
    assert made.manifest.provenance.sources.keys() == {"owls"}
    assert "diaries" not in str(yaml.safe_load((run / "recipe.yaml").read_text())["data"]["sources"])


def killed_at(run: Path, name: str, number: int) -> int | None:
    """The exit code of `forget` in a process of its own that is killed before it renames or removes a file
    for the `number`-th time."""
    done = 0

    def counted(change: Any) -> Any:
        def changed(*given: Any, **named: Any) -> Any:
            nonlocal done
            done += 1
            if done == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*given, **named)

        return changed

    def work() -> None:
        for owner, change in ((os, "replace"), (os, "unlink"), (os, "rmdir"), (Path, "unlink")):
            setattr(owner, change, counted(getattr(owner, change)))
        forget(run, [name], QUIET, yes=True)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    return process.exitcode


@pytest.mark.parametrize("name", [sha256_text(DIARY), "diaries"], ids=["document", "source"])
def test_killed_at_any_point_it_is_finished_by_the_same_command(
    lived: Path, tmp_path: Path, name: str
) -> None:
    codes: list[int | None] = []
    recipe = Recipe.model_validate(yaml.safe_load((lived / "recipe.yaml").read_text()))
    recipe = recipe.model_copy(update={"stages": ("prepare",)})
    for number in (1, 2, 3, 5, 9, 14) if name != "diaries" else (2, 4, 9, 16):
        run = tmp_path / "runs" / f"{number}"
        shutil.copytree(lived, run)
        (run / "recipe.yaml").write_text(recipe.to_yaml())
        shutil.rmtree(run / "tokenize")
        leave_unfinished(run)
        codes.append(killed_at(run, name, number))
        journal = run / "forgetting.json"
        if journal.is_file() and not json.loads(journal.read_text())["is_gone"]:
            with pytest.raises(UserError, match="Finish it first: modelwright forget"):
                Life(recipe, run, QUIET).run(["prepare"])
        forget(run, [name], QUIET, yes=True)
        left = documents(run)
        assert len(left) == (12 if name != "diaries" else 13)
        assert Artifact.load(run / "prepare").metrics["train_documents"] == len(
            list(read_corpus(run / "prepare" / "train"))
        )
        assert Artifact.load(run / "prepare").damage(hashes=True) is None
        assert "diaries" not in Artifact.load(run / "prepare").manifest.provenance.sources
        names = {path.name for path in run.iterdir() if path.name not in ("log.txt", ".lock")}
        assert names == {"prepare", "recipe.yaml"} and not list(run.rglob(".tmp-*"))
        if name != "diaries":
            assert holding(run) == []
    assert codes == [-signal.SIGKILL] * len(codes)


def leave_unfinished(run: Path) -> None:
    (run / "pretrain" / "checkpoints").mkdir(parents=True)
    (run / "pretrain" / "checkpoints" / "model.bin").write_text(MARK)
    shutil.copytree(run / "prepare", run / "replaced" / "prepare-1")


def test_what_it_says(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave_traces(run)
    name = sha256_text(DIARY)[:12]
    seen = forget(run, [name], QUIET, yes=False)
    show_seen([name], seen, False, False)
    said = capsys.readouterr().out
    for part in (
        f"{name}: a document", "(train)", "(dropped)", "1 dropped document nearly the same",
        f"Would be edited where it lies: {run / 'prepare'}", f"Would be removed: {run / 'pretrain'}",
        "Would then be made again: tokenize", "Not made again, since it was not finished: study, pretrain",
        "copies outside this run", f"Nothing was changed. To do it: modelwright forget {run} {name} --yes",
    ):  # fmt: skip
        assert part in said, (part, said)
    show_seen([name], seen, False, True)
    found = json.loads(capsys.readouterr().out)
    assert found["done"] is False and found["made_again"] == ["tokenize"]
    assert found["found"][name]["kind"] == "document" and str(run / "finetune") in found["removed"]


def test_an_input_from_another_run_is_forgotten_there_first(run: Path) -> None:
    other = run.parent / "other"
    (other / "tokenize").mkdir(parents=True)
    (other / "recipe.yaml").write_text(Recipe(name="y", stages=("tokenize",)).to_yaml())
    inputs = {"corpus": Artifact.load(run / "prepare")}
    made = Run(other / "tokenize", "tokenize", "tokens", Nothing(), 1, inputs)
    made.finish([])
    (seen,) = forget(other, ["diaries"], QUIET, yes=False)
    assert "outside this run" in seen.blocked
    with pytest.raises(UserError, match=f"modelwright forget {run.resolve()} diaries --yes"):
        forget(other, ["diaries"], QUIET, yes=True)
    (seen,) = forget(run, ["diaries"], QUIET, yes=False)
    assert seen.elsewhere == (other.resolve() / "tokenize",)

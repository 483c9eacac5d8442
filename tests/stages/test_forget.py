"""Forgetting: a text leaves the corpus and all that was made from it, and nothing else is touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import sha256_text
from modelwright.base.progress import PlainView
from modelwright.base.schema import Document
from modelwright.data.corpus import DocumentsFile, read_corpus, read_documents
from modelwright.data.pipeline.sides import finish_filling
from modelwright.life import Life, forget
from modelwright.life.seen import stations
from modelwright.recipes.recipe import Recipe
from modelwright.tokenizer.shards import TokenShards

QUIET = PlainView(quiet=True)
SHAPE = {"depth": 1, "hidden_size": 32, "head_dim": 16, "max_position_embeddings": 64}
PRETRAIN = {"tokens": 1500, "context": 32, "rows": 4, "validation_tokens": 200, "checkpoint_every": 5}


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two sources, up to a pre-trained model."""
    tmp_path = tmp_path_factory.mktemp("lived")
    for source, count in (("foxes", 30), ("owls", 40)):
        folder = tmp_path / source
        folder.mkdir()
        for number in range(count):
            body = (
                f"The {source} number {number} met {number * 7} others in a wood of {number * 13} trees. " * 3
            )
            (folder / f"{number}.txt").write_text(body)
    named = [{"path": str(tmp_path / name), "name": name, "licence": name} for name in ("foxes", "owls")]
    recipe = Recipe(
        name="x",
        stages=("prepare", "tokenize", "pretrain"),
        data={"sources": named, "unit_bytes": 2048, "keep_dropped": "texts"},
        tokenizer={"vocab_size": 300},
        model=SHAPE,
        pretrain=PRETRAIN,
    )
    folder = tmp_path / "run"
    Life(recipe, folder, QUIET).run(recipe.stages)
    return folder


@pytest.fixture
def life(lived: Path, tmp_path: Path) -> Path:
    """A copy of it, which reads the same sources."""
    shutil.copytree(lived, tmp_path / "run")
    return tmp_path / "run"


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_looking_changes_nothing_and_names_every_shard_and_model(life: Path) -> None:
    before = everything(life)
    (seen,) = forget(life, ["foxes"], QUIET, yes=False)
    assert everything(life) == before
    by_kind = {kind: [p for p in seen.shards if kind in str(p.path)] for kind in ("prepare", "tokenize")}
    assert all(sum(place.documents for place in places) == 30 for places in by_kind.values())
    assert [made.role for made in seen.models] == ["base"]


def test_a_source_leaves_everything(life: Path) -> None:
    owls = [d for d in read_corpus(life / "prepare" / "train") if d.source == "owls"]
    forget(life, ["foxes"], QUIET, yes=True)
    assert list(read_corpus(life / "prepare" / "train")) == owls
    for verb in ("prepare", "tokenize", "pretrain"):
        made = Artifact.load(life / verb)
        assert made.damage(hashes=True) is None
        assert (
            made.manifest.provenance.sources == {"owls": 40}
            and "foxes" not in made.manifest.provenance.licences
        )
    assert TokenShards.open(life / "tokenize" / "train").index.sources == ("owls",)
    assert not (life / "replaced").exists()
    assert b"foxes number" not in everything(life)
    (again,) = forget(life, ["foxes"], QUIET, yes=True)
    assert again.target.is_done and not (again.shards or again.removed or again.again)


def test_only_the_shards_that_hold_a_document_are_written_anew(life: Path) -> None:
    victim = next(iter(read_corpus(life / "prepare" / "train")))
    times = {p: p.stat().st_mtime_ns for p in (life / "prepare" / "train").glob("*.parquet")}
    holding = {p for p in times if any(d.id == victim.id for d in read_documents(p))}
    forget(life, [victim.id], QUIET, yes=True)
    assert {p for p, time in times.items() if p.stat().st_mtime_ns != time} == holding and len(times) > 1


def test_what_repeated_a_forgotten_source_comes_back(lived: Path, life: Path, tmp_path: Path) -> None:
    shutil.copytree(lived.parent / "owls", tmp_path / "owls")
    (tmp_path / "owls" / "shared.txt").write_text((lived.parent / "foxes" / "3.txt").read_text())
    settings = yaml.safe_load((life / "recipe.yaml").read_text())
    settings["data"]["sources"][1]["path"] = str(tmp_path / "owls")
    recipe = Recipe.model_validate(settings)
    (made,) = Life(recipe, life, QUIET).run(["prepare"])
    assert made.manifest.provenance.sources == {"foxes": 30, "owls": 40}
    forget(life, ["foxes"], QUIET, yes=True)
    assert Artifact.load(life / "prepare").manifest.provenance.sources == {"owls": 41}


def test_what_remains_is_what_preparing_anew_would_give(life: Path, tmp_path: Path) -> None:
    victim = next(iter(read_corpus(life / "prepare" / "train")))
    forget(life, [victim.id[:12]], QUIET, yes=True)
    recipe = Recipe.model_validate(yaml.safe_load((life / "recipe.yaml").read_text()))
    assert recipe.data["forget"] == [victim.id]
    Life(recipe, tmp_path / "anew", QUIET).run(["prepare"])
    for side in ("train", "validation"):
        edited, anew = (list(read_corpus(folder / "prepare" / side)) for folder in (life, tmp_path / "anew"))
        assert edited == anew
    old, new = (Artifact.load(folder / "prepare") for folder in (life, tmp_path / "anew"))
    assert old.manifest.fingerprint == new.manifest.fingerprint
    assert old.manifest.provenance == new.manifest.provenance
    assert old.metrics["train_documents"] == new.metrics["train_documents"]


def test_a_second_run_has_nothing_left_to_do(life: Path) -> None:
    victim = next(iter(read_corpus(life / "prepare" / "train")))
    forget(life, [victim.id], QUIET, yes=True)
    marks = {path: path.stat().st_mtime_ns for path in life.glob("*/manifest.json")}
    recipe = Recipe.model_validate(yaml.safe_load((life / "recipe.yaml").read_text()))
    Life(recipe, life, QUIET).run(recipe.stages)
    assert {path: path.stat().st_mtime_ns for path in life.glob("*/manifest.json")} == marks


def test_unknown_names_and_the_only_source(life: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'foxes'"):
        forget(life, ["foxe"], QUIET, yes=False)
    with pytest.raises(UserError, match="no source and no document"):
        forget(life, [sha256_text("nothing")], QUIET, yes=False)
    with pytest.raises(UserError, match="'owls' is the only source of data"):
        forget(life, ["foxes", "owls"], QUIET, yes=True)
    assert len(json.loads((life / "prepare" / "sources.json").read_text())) == 70


def test_a_damaged_corpus_is_not_made_official(life: Path) -> None:
    document = next(iter(read_corpus(life / "prepare" / "train")))
    shards = sorted((life / "prepare" / "train").glob("*.parquet"))
    other = next(path for path in shards if all(d.id != document.id for d in read_documents(path)))
    content = bytearray(other.read_bytes())
    content[len(content) // 3] ^= 1
    other.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged.*Make it anew"):
        forget(life, [document.id], QUIET, yes=True)
    assert not (life / "forgetting.json").exists()


@pytest.mark.parametrize("harm", ["end", "middle"])
def test_what_was_dropped_and_cannot_be_read_any_more_does_not_stop_a_forgetting(
    life: Path, monkeypatch: pytest.MonkeyPatch, harm: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The disk fails between the journal, for which all was checked, and the work."""
    victim = next(iter(read_corpus(life / "prepare" / "train")))
    broken = sorted((life / "prepare" / "dropped").glob("write-*.parquet"))[0]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("modelwright.life.forgetting._remove", interrupted)
        forget(life, [victim.id], QUIET, yes=True)
    content = broken.read_bytes()
    places = {"end": slice(-8, None), "middle": slice(4, len(content) // 2)}
    half = bytearray(content)
    half[places[harm]] = bytes(len(half[places[harm]]))
    broken.write_bytes(half)
    forget(life, [victim.id], PlainView(quiet=False), yes=True)
    said = capsys.readouterr()
    assert f"{broken} has become unreadable" in said.out + said.err
    assert not broken.exists() and not (life / "forgetting.json").exists()
    assert victim.id not in {d.id for d in read_corpus(life / "prepare" / "train")}
    made = Artifact.load(life / "prepare")
    assert made.damage(hashes=True) is None and "dropped" in {
        f.path.split("/")[0] for f in made.manifest.files
    }


def interrupted(folder: Path, view: object) -> None:
    assert (folder / "forgetting.json").exists()
    raise KeyboardInterrupt


def test_a_killed_study_is_seen(life: Path) -> None:
    cell = life / "scale" / "cells" / "2x64-pretrain-1" / "checkpoints" / "step-00000001"
    cell.mkdir(parents=True)
    (cell / "model.safetensors").write_bytes(b"x")
    assert "scale" in [left.path.name for left in stations(life)]


def test_a_side_that_was_being_filled_holds_nothing_twice(tmp_path: Path) -> None:
    documents = [Document(text=text, id=sha256_text(text), source="x") for text in ("one", "two", "three")]
    for side, held in (("train", documents), ("validation", documents[1:2])):
        (tmp_path / side).mkdir()
        with DocumentsFile(tmp_path / side / "000000.parquet") as file:
            for document in held:
                file.add(document)
    finish_filling(tmp_path / "train", tmp_path / "validation")
    assert [d.text for d in read_corpus(tmp_path / "train")] == ["one", "three"]
    assert [d.text for d in read_corpus(tmp_path / "validation")] == ["two"]


@pytest.mark.parametrize("first, then", [([{"name": "privacy"}], []), ([], [{"name": "privacy"}])])
def test_a_forgotten_document_stays_so_whatever_rewrites_it(
    tmp_path: Path, first: list[dict[str, str]], then: list[dict[str, str]]
) -> None:
    """A filter that masks changes the id; the document is known by the ids that it had before, too."""
    (tmp_path / "texts").mkdir()
    for number in range(12):
        letter = f"Letter {number} to the keeper of the wood. Write to keeper{number}@forest.org about it. "
        (tmp_path / "texts" / f"{number}.txt").write_text(letter * 5)
    data: dict[str, Any] = {"sources": [{"path": str(tmp_path / "texts"), "name": "letters"}]}
    folder = tmp_path / "run"

    def live(filters: list[dict[str, str]]) -> list[Document]:
        recipe = Recipe(name="x", stages=("prepare",), data={**data, "filters": filters})
        Life(recipe, folder, QUIET).run(["prepare"])
        return [d for side in ("train", "validation") for d in read_corpus(folder / "prepare" / side)]

    meant = next(d for d in live(first) if "Letter 3 " in d.text)
    forget(folder, [meant.id], QUIET, yes=True)
    left = live(then)
    assert len(left) == 11 and not any("Letter 3 " in d.text for d in left)

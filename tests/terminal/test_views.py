"""`ls`, `show` and `trace` over a small made-up run: what they say is what the manifests say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.base.progress import PlainView
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus, write_corpus
from modelwright.life import Life
from modelwright.recipes.recipe import Recipe
from modelwright.terminal import environment, lineage, manifests, runs
from modelwright.terminal.printable import printable
from modelwright.tokenizer.shard_writer import write_shards


class Nothing(Config):
    """No settings."""


def document(text: str, **known: Any) -> Document:
    return Document(text=text, id=sha256_text(text), source="tales/\x1b[31mred.txt", **known)


TRAIN = [document("the fox ran", licence="CC0-1.0"), document("the owl sat", licence="CC0-1.0")]
HELD_OUT = [document("the hen ate", licence="MIT", personal_data=True)]


def station(folder: Path, verb: str, role: str, **inputs: Artifact) -> Run:
    run = Run(folder / verb, verb, role, Nothing(), 1, inputs)
    (run.dir / "model").mkdir(exist_ok=True)
    (run.dir / "model" / "model.safetensors").write_bytes(bytes(1500))
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """runs/one with a corpus, tokens and two models."""
    folder = tmp_path / "runs" / "one"
    run = Run(folder / "prepare", "prepare", "corpus", Nothing(), 1)
    for split, documents in (("train", TRAIN), ("validation", HELD_OUT)):
        with write_corpus(run.dir / split) as writer:
            for one in documents:
                writer.add(one)
    run.brings_in(Provenance.of([*TRAIN, *HELD_OUT]))
    corpus = run.finish(["train", "validation"])
    run = Run(folder / "tokenize", "tokenize", "tokens", Nothing(), 1, {"corpus": corpus})
    make_shards(run.dir / "train")
    tokens = run.finish(["train"])
    run = station(folder, "pretrain", "base", tokens=tokens)
    base = run.finish(["model"], {"validation_bits_per_byte": 1.234}, tokens=5000)
    run = station(folder, "finetune", "sft", tokens=tokens, model=base)
    run.finish(["model"], {})
    (folder / "align").mkdir()
    return folder


def make_shards(folder: Path) -> None:
    with write_shards(folder, vocab_size=300, end_of_text_id=0) as writer:
        for one in TRAIN:
            writer.add([5, 6, 7], document=one.id, source=one.source, num_bytes=len(one.text))


def test_ls_says_what_is_done(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.show_runs(folder.parent, as_json=True)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["run"] == "one"
    assert row["done"] == ["prepare", "tokenize", "pretrain", "finetune"]
    assert row["unfinished"] == ["align"]
    assert row["model_bytes"] == 1500
    assert row["tokens"] == 5000
    assert row["headline"] == {"validation_bits_per_byte": 1.234}
    runs.show_runs(folder.parent)
    text = capsys.readouterr().out
    assert "4 of 9" in text
    assert "align" in text
    assert "1.46 KiB" in text
    (folder / "recipe.yaml").write_text("stages: [prepare, tokenize, pretrain, finetune, align]")
    runs.show_runs(folder.parent)
    assert "4 of 5" in capsys.readouterr().out


def test_ls_shows_the_figure_of_the_latest_stage_and_says_whose_it_is(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    runs.show_runs(folder.parent)
    assert "pretrain: validation bits per byte 1.23" in capsys.readouterr().out
    run = station(folder, "align", "aligned", model=Artifact.load(folder / "finetune"))
    run.finish(["model"], {"validation_accuracy": 0.96})
    runs.show_runs(folder.parent)
    shown = capsys.readouterr().out
    assert "align: validation accuracy 0.96" in shown and "bits per byte" not in shown


def test_a_damaged_manifest_hides_no_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content in ("{", "[]", "{}"):
        (folder / "pretrain" / "manifest.json").write_text(content)
        runs.show_runs(folder.parent, as_json=True)
        (row,) = json.loads(capsys.readouterr().out)
        assert row["damaged"] == ["pretrain"] and row["done"] == ["prepare", "tokenize", "finetune"]
    runs.show_runs(folder.parent)
    assert "pretrain damaged" in " ".join(capsys.readouterr().out.split())


def test_ls_without_runs_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="modelwright run quickstart"):
        runs.show_runs(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        runs.show_runs(tmp_path / "nowhere")


def test_a_path_that_is_no_run_is_told_what_it_is(folder: Path) -> None:
    for look in (manifests.show_manifests, lineage.show_ancestry):
        with pytest.raises(UserError, match=r"runs is no run, but holds runs: \S+runs/one\. Name one"):
            look(folder.parent)
        with pytest.raises(UserError, match=r"align has no manifest\.json.*Expected a run directory"):
            look(folder / "align")
    (folder.parent / "two" / "prepare").mkdir(parents=True)
    with pytest.raises(UserError, match="nothing is finished in"):
        manifests.show_manifests(folder.parent / "two")


def test_show_prints_manifests_and_verifies_hashes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifests.show_manifests(folder / "pretrain", verify=True, as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads((folder / "pretrain" / "manifest.json").read_text())
    manifests.show_manifests(folder)
    text = capsys.readouterr().out
    assert text.count("made by:") == 4
    assert "validation_bits_per_byte: 1.234" in text
    assert "\x1b" not in text
    weights = folder / "pretrain" / "model" / "model.safetensors"
    weights.write_bytes(bytes(1499) + b"x")
    with pytest.raises(DamagedFile, match=r"pretrain: model/model.safetensors has changed"):
        manifests.show_manifests(folder, verify=True)


def test_trace_leads_to_the_documents(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lineage.show_ancestry(folder, as_json=True)
    traced = json.loads(capsys.readouterr().out)
    assert traced["artifact"]["role"] == "sft"
    assert [parent["role"] for parent in traced["artifact"]["parents"]] == ["model", "tokens"]
    corpus = traced["artifact"]["parents"][1]["parents"][0]
    assert corpus["id"] == Artifact.load(folder / "prepare").id
    assert traced["documents"]["count"] == 3
    assert traced["documents"]["licences"] == {"CC0-1.0": 2, "MIT": 1}
    lineage.show_ancestry(folder / "finetune")
    text = capsys.readouterr().out
    assert text.index("sft") < text.index("pretrain") < text.index("prepare") < text.index("3 documents")
    assert "\x1b" not in text


def test_trace_counts_conversations_and_pairs_beside_documents(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tuned = Artifact.load(folder / "finetune")
    run = station(folder, "align", "aligned", model=tuned)
    run.brings_in(Provenance.count([("atlas", "CC-BY-4.0", "DE", "no")] * 7))
    run.finish(["model"], {})
    lineage.show_ancestry(folder, as_json=True)
    traced = json.loads(capsys.readouterr().out)
    assert {kind: texts["count"] for kind, texts in traced["learned_from"].items()} == {
        "documents": 3,
        "preference pairs": 7,
    }
    assert traced["learned_from"]["preference pairs"]["licences"] == {"CC-BY-4.0": 7}
    assert traced["artifact"]["brought_in"]["preference pairs"]["count"] == 7
    lineage.show_ancestry(folder)
    text = capsys.readouterr().out
    assert text.index("7 preference pairs") < text.index("sources: atlas 7") < text.index("3 documents")
    assert text.endswith("learned from 3 documents, 7 preference pairs\n")
    manifests.show_manifests(folder / "align")
    assert "in all: 3 documents, 7 preference pairs" in capsys.readouterr().out


def test_trace_admits_a_lost_or_changed_ancestor(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(folder / "tokenize" / "manifest.json", folder / "prepare" / "manifest.json")
    lineage.show_ancestry(folder / "tokenize")
    assert "has been made anew since" in capsys.readouterr().out
    shutil.rmtree(folder / "prepare")
    lineage.show_ancestry(folder / "tokenize")
    assert "no longer at ../prepare" in capsys.readouterr().out
    with pytest.raises(UserError, match="documents cannot be traced"):
        lineage.show_document(folder, TRAIN[0].id)


def test_a_document_names_the_models_that_saw_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lineage.show_document(folder, TRAIN[1].id[:10], as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["document"] == TRAIN[1].id
    assert [name.split()[0] for name in found["models"]] == ["base", "sft"]
    lineage.show_document(folder / "finetune", HELD_OUT[0].id, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["models"], found["personal_data"]) == ("validation", [], "yes")
    lineage.show_document(folder, HELD_OUT[0].id)
    assert "held out" in capsys.readouterr().out
    with pytest.raises(UserError, match="nor has one that prepare took out"):
        lineage.show_document(folder, "ffff")


def test_a_token_leads_to_its_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for position, expected in ((0, 0), (3, 0), (4, 1), (7, 1)):
        lineage.show_token(folder, position, as_json=True)
        assert json.loads(capsys.readouterr().out)["document"] == TRAIN[expected].id
    with pytest.raises(UserError, match="0 to 7"):
        lineage.show_token(folder, 8)


def test_environment_names_the_readers(capsys: pytest.CaptureFixture[str]) -> None:
    environment.show_environment(as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["torch"].startswith("2.")
    assert "transformers" in facts["extras"]["verify"] and "resiliparse" in facts["extras"]["data"]


def test_environment_says_how_to_install_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(environment.packages(extra) for extra in environment.EXTRAS)  # as pyproject.toml has them
    there = environment.metadata.version

    def version(package: str) -> str:
        if package == "fastwarc":
            raise environment.metadata.PackageNotFoundError(package)
        return there(package)

    monkeypatch.setattr(environment.metadata, "version", version)
    environment.show_environment()
    said = capsys.readouterr().out
    assert "fastwarc         not installed" in said
    assert said.count("pip install 'modelwright[data]'") == 1


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("a\x1b[2Jb", r"a\x1b[2Jb"), ("a\u202eb", r"a\u202eb"), ("é ф 中\n", "é ф 中\n"), ("a\x9bb", r"a\x9bb")],
)
def test_control_codes_are_shown_and_not_obeyed(raw: str, shown: str) -> None:
    assert printable(raw) == shown


def test_durations() -> None:
    assert [runs.duration(s) for s in (5, 200, 7500)] == ["5 s", "3 min 20 s", "2 h 05 min"]


def test_trace_tells_masked_from_not_looked_at_and_finds_what_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mail.jsonl").write_text(
        '{"text": "Write to ann.lee@valley-office.org about the fox, the owl and the hen."}\n'
        '{"text": "A text about the owl that sat in the old tree over the river."}\n'
        '{"text": "A text about the owl that sat in the old tree over the river."}\n'
    )
    source = {"path": str(tmp_path / "mail.jsonl"), "name": "mail", "legal_basis": "consent"}
    data = {"sources": [source], "filters": [{"name": "privacy"}], "decontaminate": {"enabled": False}}
    run = tmp_path / "run"
    Life(Recipe(name="x", stages=("prepare",), data=data), run, PlainView(quiet=True)).run(["prepare"])
    made = Artifact.load(run / "prepare")
    both = [d for side in ("train", "validation") for d in read_corpus(made.file(side))]
    lineage.show_document(run, next(d.id for d in both if "fox" in d.text), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["personal_data"], found["legal_basis"]) == ("masked", "consent")
    assert found["place"] == "mail.jsonl, line 1"
    lineage.show_document(run, next(d.id for d in both if "fox" in d.text))
    assert "personal data: masked" in capsys.readouterr().out
    (went,) = pq.read_table(made.file("dropped")).to_pylist()
    assert went["says"].endswith("of mail: mail.jsonl, line 2")
    lineage.show_document(run, went["id"])  # the first of the two texts is in the corpus
    assert "split:" in capsys.readouterr().out
    shutil.rmtree(made.path / "train")
    shutil.rmtree(made.path / "validation")
    for side in ("train", "validation"):
        with write_corpus(made.path / side):
            pass
    lineage.show_document(run, went["id"][:12])
    assert "mail: mail.jsonl, line 3: duplicates: exact duplicate" in capsys.readouterr().out
    lineage.show_document(run, went["id"][:12], as_json=True)
    assert json.loads(capsys.readouterr().out)["dropped"] == [went]

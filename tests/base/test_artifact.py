"""Where an artifact comes from: its ancestors, and the roll-up of the documents behind it."""

from __future__ import annotations

import shutil
from pathlib import Path

from modelwright.base.artifact import LEARNED_FROM, Artifact, so_many
from modelwright.base.config import Config
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run


class Settings(Config):
    value: int = 0


def make(
    folder: Path, value: int = 0, licence: str | None = None, role: str = "", **inputs: Artifact
) -> Artifact:
    run = Run(folder, folder.name, role or folder.name, Settings(value=value), 1, inputs)
    (run.dir / "made.txt").write_text(str(value))
    if licence:
        run.brings_in(Provenance.count([(folder.name, licence, "unknown", "unknown")] * 2))
    return run.finish(["made.txt"])


def test_ancestry_goes_up_as_far_as_it_is_true(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", licence="MIT")
    tokens = make(tmp_path / "tokens", corpus=corpus)
    model = make(tmp_path / "model", tokens=tokens, corpus=corpus)
    assert [made.stage for made in model.ancestry()] == ["model", "tokens", "corpus"]
    to_corpus, to_tokens = model.manifest.parents
    make(tmp_path / "corpus", value=1, licence="MIT")
    assert model.parent(to_corpus) == (None, "../corpus has been made anew since")
    shutil.rmtree(tmp_path / "tokens")
    assert model.parent(to_tokens) == (None, "no longer at ../tokens")
    assert model.ancestry() == [model]


def test_documents_behind_several_inputs_count_once_and_no_licence_is_lost(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", licence="MIT")
    tuned = make(tmp_path / "tuned", corpus=corpus, licence="CC-BY-4.0")
    assert tuned.manifest.provenance.licences == {"CC-BY-4.0": 2, "MIT": 2}
    assert make(tmp_path / "both", corpus=corpus, tuned=tuned).manifest.provenance.documents == 4
    other = make(tmp_path / "other", licence="GPL-3.0")
    mixed = make(tmp_path / "mixed", tokens=other, model=tuned).manifest.provenance
    assert mixed.licences == {"CC-BY-4.0": 2, "GPL-3.0": 2, "MIT": 2}


def test_every_kind_of_text_is_told_from_the_others_and_comes_from_where_it_says(tmp_path: Path) -> None:
    corpus = make(tmp_path / "corpus", licence="MIT")
    tokens = make(tmp_path / "tokens", corpus=corpus)
    sft = make(tmp_path / "finetune", licence="CC-BY-4.0", role="sft", model=tokens)
    aligned = make(tmp_path / "align", licence="MIT", role="aligned", model=sft)
    averaged = make(tmp_path / "average", tokens=tokens, model=aligned)
    found = averaged.learned_from()
    assert list(found) == ["documents", "conversations", "preference pairs"]
    assert [texts.documents for texts in found.values()] == [2, 2, 2]
    assert (found["documents"].licences, found["documents"].sources) == ({"MIT": 2}, {"corpus": 2})
    assert (found["conversations"].licences, found["conversations"].sources) == (
        {"CC-BY-4.0": 2},
        {"finetune": 2},
    )
    assert averaged.texts_behind() == "2 documents, 2 conversations, 2 preference pairs"
    assert averaged.brought_in()[1] == tokens.brought_in()[1] == Provenance()
    shutil.rmtree(tmp_path / "corpus")
    assert averaged.texts_behind() == "2 texts, 2 conversations, 2 preference pairs"


def test_one_text_is_not_many() -> None:
    assert [so_many(1, kind) for kind in LEARNED_FROM.values()] == [
        *("1 document", "1 model from outside", "1 prompt and writer", "1 conversation", "1 preference pair")
    ]
    assert so_many(2_000, "models from outside") == "2,000 models from outside"

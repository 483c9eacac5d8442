"""A life in which a model writes what another one learns: one recipe, from prompts to a student."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError
from modelwright.cli import main
from modelwright.recipes.recipe import Recipe, load_recipe

pytest.importorskip("transformers")

from tests.life.outside import write_model

RECIPE = """
name: mine
stages: [import, synthesize, finetune]
import: {{model: student, licence: Apache-2.0}}
synthesize:
  sources: [{{path: asked.jsonl, name: asked, licence: CC-BY-4.0}}]
  writer: {{model: teacher, device: cpu, dtype: float32, licence: {licence}}}
  sampling: {{max_tokens: 60, temperature: 1.0, stop: [" ", e, a]}} # a random model ends nowhere else
  samples: 2
finetune:
  context: 120
  rows: 4
  epochs: 1
  compute: {{dtype: float32, compile: never}}
  optimizer: {{kind: adamw, learning_rate: 0.003}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """Where the life was lived."""
    folder = tmp_path_factory.mktemp("written")
    write_model(folder / "student", tiny_tokenizer)
    write_model(folder / "teacher", tiny_tokenizer, hidden_size=32)
    rows = [{"messages": [{"role": "user", "content": f"Say {n}."}]} for n in range(80)]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(RECIPE.format(licence="MIT"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["plan", "mine.yaml"]) == 0
        assert main(["run", "mine.yaml", "--out", "runs/mine"]) == 0
        assert main(["report", "runs/mine"]) == 0
    return folder


def made(place: Path, verb: str) -> Artifact:
    return Artifact.load(place / "runs" / "mine" / verb)


def test_the_student_learns_what_was_written_and_knows_from_whom(place: Path) -> None:
    written, tuned = made(place, "synthesize"), made(place, "finetune")
    assert {parent.role for parent in tuned.manifest.parents} == {"model", "examples"}
    assert tuned.metrics["conversations"] > 20
    sources = tuned.manifest.provenance.sources
    assert sources == {"asked": 80, "student": 1, "written by teacher": 1}, "each is counted once"
    assert tuned.manifest.provenance.licences == {"Apache-2.0": 1, "CC-BY-4.0": 80, "MIT": 1}
    assert tuned.learned_from().keys() == {"models from outside", "prompts and writers"}
    assert written.metrics["asked"] == 160
    row = json.loads((written.path / "examples.jsonl").read_text().splitlines()[0])
    assert row["licence"] == "CC-BY-4.0 AND MIT"


def test_it_is_not_lived_twice_and_its_steps_are_traced(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    ids = [made(place, verb).id for verb in ("synthesize", "finetune")]
    assert main(["run", "runs/mine"]) == 0
    assert [made(place, verb).id for verb in ("synthesize", "finetune")] == ids
    capsys.readouterr()
    assert main(["trace", "runs/mine/finetune", "--step", "1", "--json"]) == 0
    said = capsys.readouterr().out
    assert "Say " in said and "synthesize" in said


def test_a_policy_refuses_a_teacher_before_it_writes(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    (place / "other.yaml").write_text(
        RECIPE.format(licence="CC-BY-NC-4.0") + "policy: {non_commercial: false}\n"
    )
    assert main(["run", "other.yaml", "--out", "runs/other"]) == 3
    assert not (place / "runs" / "other" / "synthesize").exists()


def test_a_source_that_is_forgotten_takes_the_rows_with_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    capsys.readouterr()
    assert main(["forget", "runs/mine", "asked"]) == 0
    said = capsys.readouterr().out
    assert "synthesize" in said and "finetune" in said


@pytest.mark.parametrize(
    ("stages", "finetune", "sources"),
    [
        (("import", "synthesize", "finetune"), {}, ["synthesize"]),
        (("import", "synthesize", "finetune"), {"sources": ["synthesize", "a.csv"]}, ["synthesize", "a.csv"]),
        (("import", "finetune"), {"sources": ["a.csv"]}, ["a.csv"]),
        (("import", "finetune"), {}, None),
    ],
)
def test_what_is_written_is_learned_where_nothing_else_is_said(
    stages: tuple[str, ...], finetune: dict[str, Any], sources: list[str] | None
) -> None:
    recipe = Recipe(name="x", stages=stages, finetune=finetune)
    assert recipe.section("finetune").get("sources") == sources


def test_a_recipe_that_learns_nothing_of_what_is_written_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("stages: [synthesize, finetune]\nfinetune: {sources: [a.csv]}\n")
    with pytest.raises(ConfigError, match="nothing would learn from what it writes"):
        load_recipe(str(path), environment={})

"""Fine-tuning with a teacher: what it learns from it, what it leaves, and which teachers are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.quantized import Scheme
from modelwright.stages import finetune


def settings_of(chats: Path, teacher: dict[str, Any], **settings: Any) -> finetune.Config:
    compute = {"dtype": "float32", "compile": "never"}
    few = {"context": 60, "rows": 2, "epochs": 2, "validate_every": 20, "compute": compute}
    return finetune.Config.model_validate({
        "sources": [{"path": str(chats)}], "optimizer": {"kind": "adamw", "learning_rate": 3e-3},
        "teacher": teacher, **few, **settings,
    })  # fmt: skip


def trained(folder: Path, config: finetune.Config, parent: Artifact) -> tuple[Artifact, list[dict[str, Any]]]:
    """What the stage leaves, and the metrics of its steps."""
    run = Run(folder, "finetune", "sft", config, 3, {"model": parent})
    try:
        made = finetune.run(config, run)
    finally:
        run.close()
    return made, [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("adapter", [None, {"kind": "lora", "rank": 4}], ids=["whole", "lora"])
def test_a_student_comes_nearer_to_its_teacher(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path, adapter: dict[str, Any] | None
) -> None:
    way = {"model": str(teacher), "divergence": "jsd", "weight": 0.9}
    made, steps = trained(tmp_path / "run", settings_of(chats, way, adapter=adapter), parent)
    assert steps[-1]["divergence"] < 0.9 * steps[0]["divergence"]
    first = steps[0]
    assert first["loss"] == pytest.approx(0.9 * first["divergence"] + 0.1 * first["next_token"], rel=1e-5)
    assert made.file("model").is_dir() and made.manifest.config["teacher"]["model"] == str(teacher)
    assert (tmp_path / "run" / "adapter").is_dir() == bool(adapter)


def test_a_model_that_is_its_own_teacher_begins_at_nothing(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    config = settings_of(chats, {"model": str(parent.file("model"))}, epochs=1)
    _, steps = trained(tmp_path / "run", config, parent)
    assert steps[0]["divergence"] == pytest.approx(0, abs=1e-5) and steps[0]["next_token"] > 1


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantized_teacher_teaches_nearly_the_same(
    parent: Artifact, chats: Path, tmp_path: Path, bits: int
) -> None:
    """The student's own weights, rounded: what it has to learn is the rounding alone."""
    folder, own = tmp_path / "rounded", parent.file("model")
    folder.mkdir()
    save_model(folder, quantize(load_model(own), Scheme(bits, 32)), own)
    config = settings_of(chats, {"model": str(folder)}, epochs=1)
    _, steps = trained(tmp_path / "run", config, parent)
    assert 0 < steps[0]["divergence"] < {8: 0.02, 4: 0.5}[bits]


def test_the_stage_runs_anew_when_its_teacher_has_changed(teacher: Path, chats: Path, tmp_path: Path) -> None:
    other = shutil.copytree(teacher, tmp_path / "other")
    config = settings_of(chats, {"model": str(other)})
    before = finetune.sources(config)
    assert finetune.sources(config) == before
    (other / "model.safetensors").write_bytes(b"changed")
    assert finetune.sources(config) != before


def test_the_licence_of_a_teacher_goes_to_its_student(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path
) -> None:
    """As it is stated, else as its card or the manifest of the run that made it says."""
    carded = Path(shutil.copytree(teacher, tmp_path / "carded"))
    (carded / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    run = Run(tmp_path / "run", "finetune", "sft", Config(), 1)
    shutil.copytree(teacher, run.dir / "model")
    run.brings_in(Provenance.count([("a", "MIT", "FR", "no"), ("b", "CC0-1.0", "FR", "no")]))
    ours = run.finish(["model"]).file("model")
    cases = [(teacher, "", "unknown"), (teacher, "Apache-2.0", "Apache-2.0"), (carded, "", "cc-by-nc-4.0")]
    for folder, said, expected in [*cases, (ours, "", "CC0-1.0 AND MIT")]:
        config = settings_of(chats, {"model": str(folder), "licence": said})
        known = finetune.facts(config).by_source[f"teacher {folder}"]
        assert known.licences == {expected: 1}
    made, _ = trained(tmp_path / "made", settings_of(chats, {"model": str(carded)}, epochs=1), parent)
    assert made.manifest.provenance.licences["cc-by-nc-4.0"] == 1
    assert f"teacher {carded}" in made.manifest.provenance.sources


def test_another_vocabulary_is_refused(parent: Artifact, teacher: Path, chats: Path, tmp_path: Path) -> None:
    """Two tokens that have changed places are enough."""
    other = shutil.copytree(teacher, tmp_path / "other")
    content = json.loads((other / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["!"], vocabulary["?"] = vocabulary["?"], vocabulary["!"]
    (other / "tokenizer.json").write_text(json.dumps(content))
    place = min(vocabulary["!"], vocabulary["?"])
    with pytest.raises(ConfigError, match=f"id {place} is another token"):
        trained(tmp_path / "run", settings_of(chats, {"model": str(other)}), parent)


def test_what_cannot_be_is_refused(chats: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="leave out z_loss, or teacher"):
        settings_of(chats, {"model": "teacher"}, z_loss=0.1)
    with pytest.raises(UserError, match="no such folder"):
        finetune.sources(settings_of(chats, {"model": str(tmp_path / "nowhere")}))
    for wrong in ({"temperature": 0}, {"weight": 0}, {"beta": 1.0}, {"divergence": "other"}, {"top": -1}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            settings_of(chats, {"model": "teacher", **wrong})

"""docs/finetune.md as a reader would follow it: commands and programs, on a tiny model made on the spot."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.base.artifact import Artifact
from modelwright.cli import main
from modelwright.formats.huggingface import load_model

pytest.importorskip("transformers")

from tests.life.outside import write_model

PAGE = (Path(__file__).parents[2] / "docs" / "finetune.md").read_text(encoding="utf-8")
THINGS = ["otter", "library", "garden", "ferry", "museum", "bakery", "harbour", "orchard", "station", "river"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).splitlines()
    return [shlex.split(line.partition("#")[0])[1:] for line in lines if line.startswith("modelwright ")]


def recipe() -> str:
    return next(text for text in blocks("yaml") if text.startswith("# mine.yaml"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Iterator[Path]:
    """Where the chapter was followed, command by command."""
    folder = tmp_path_factory.mktemp("chapter")
    write_model(folder / "my-model", tiny_tokenizer, max_position_embeddings=256)
    (folder / "mine.yaml").write_text(recipe())
    with open(folder / "answers.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["question", "answer"])
        rows.writerows([f"Where is {thing} {n}?", f"In row {n}."] for thing in THINGS for n in range(24))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands():
            assert main(command) == 0, command
        yield folder


def read(place: Path, name: str) -> Any:
    return json.loads((place / "runs" / "mine" / name).read_text())


def test_the_chapter_runs_as_it_is_written(place: Path) -> None:
    assert {command[0] for command in commands()} >= {"dataset", "plan", "run", "show", "report", "trace"}
    run = place / "runs" / "mine"
    made = [Artifact.load(run / verb) for verb in ("import", "finetune", "evaluate", "compress", "export")]
    assert made[-1].ancestry()[-1].stage == "import"
    assert made[-1].manifest.provenance.licences.keys() == {"Apache-2.0", "unknown"}
    assert made[-1].learned_from().keys() == {"models from outside", "conversations"}
    base, tuned = made[0], made[1]
    assert tuned.metrics["validation_loss"] < read(place, "search/search.json")["before"]
    assert tuned.manifest.config["search"]["found"] == Artifact.load(run / "search").id
    assert read(place, "evaluate/results.json").keys() == {"base", "sft"}
    assert (
        read(place, "compress/damage.json")["bytes_after"]
        < read(place, "compress/damage.json")["bytes_before"]
    )
    assert base.metrics["licence"] == "Apache-2.0"
    said = (run / "report.html").read_text()
    assert all(artifact.id[:8] in said for artifact in made)
    for name in re.findall(r"`runs/mine/([\w/.]+\.(?:json|jsonl|html|yaml))`", PAGE):
        assert (run / name).is_file(), f"the chapter names {name}"


def test_the_model_that_a_run_begins_with_cannot_be_forgotten(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forget", "runs/mine", "my-model", "--yes"]) == 1
    assert "'my-model' is the model that this run begins with" in capsys.readouterr().err
    assert (place / "runs" / "mine" / "import" / "manifest.json").is_file()


def test_what_is_exported_was_read_back(place: Path) -> None:
    verdicts = read(place, "export/verification.json")
    passed = {(v["file"], v["reader"]) for v in verdicts if v["status"] == "passed"}
    assert {v["status"] for v in verdicts} <= {"passed", "not verified"}
    assert {("hf", "transformers"), ("model-q8_0.gguf", "transformers")} <= passed
    if importlib.util.find_spec("llama_cpp"):
        assert ("model-q8_0.gguf", "llama-cpp-python") in passed


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks transformers so
@pytest.mark.parametrize("library", ["transformers", "peft"])
def test_its_programs_run(place: Path, library: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip(library)
    code = next(text for text in blocks("python") if text.startswith(f"from {library} import"))
    names: dict[str, Any] = {}
    exec(compile(code, "docs/finetune.md", "exec"), names)
    said = capsys.readouterr().out
    if library == "transformers":
        assert "When is the library open?" in said
    else:
        chosen = Artifact.load(place / "runs" / "mine" / "finetune").manifest.config["adapter"]["rank"]
        assert said.strip() == str(chosen)
        ids = torch.arange(24)[None]
        with torch.no_grad():
            merged = load_model(place / "runs" / "mine" / "finetune" / "model")(ids).logits()
            theirs = names["tuned"].float()(ids).logits
        rounding = 0.01 * float(merged.abs().max())  # merged weights are bf16, as the model's were
        torch.testing.assert_close(theirs, merged, rtol=0, atol=rounding)


@pytest.mark.parametrize(
    ("name", "machine", "devices"),
    [("finetune-laptop", "m3-max", 1), ("finetune-gpu", "4090", 1), ("finetune-cluster", "H100", 8)],
)
def test_the_shipped_recipes_fit_the_machines_that_they_are_for(
    place: Path, name: str, machine: str, devices: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """By their forecasts; `answers.csv`, which they name, lies here."""
    assert main(["plan", name, "--on", machine, "--devices", str(devices), "--json"]) == 0
    stations = {each["station"]: each for each in json.loads(capsys.readouterr().out)["stations"]}
    assert list(stations) == ["import", "finetune", "evaluate", "compress", "export"]
    assert all(each["fits"] is not False for each in stations.values()) and stations["finetune"]["fits"]
    assert stations["finetune"]["peak_memory"] > 2**28

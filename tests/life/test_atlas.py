"""The whole line on the embedded corpus: what comes out of each station, and that nothing is lost."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import signal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from tests import children
from tests.life.tiny import ancestors, artifacts, command, doomed, held_out_loss, ids, metrics

from modelwright.base.artifact import Artifact, content_id, describe_files
from modelwright.base.files import read_json
from modelwright.base.run import code_revision
from modelwright.base.schema import Sampling
from modelwright.cli import main
from modelwright.data.atlas.documents import LICENCE
from modelwright.data.corpus import read_corpus
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.recipes.stations import WHOLE_LIFE
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The run directory of a life without interruption."""
    folder = tmp_path_factory.mktemp("unbroken") / "tiny"
    assert main([*command(folder), "--quiet"]) == 0
    return folder


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    capsys.readouterr()
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_every_artifact_is_what_its_manifest_says(life: Path) -> None:
    for verb, made in artifacts(life).items():
        manifest = made.manifest
        now = describe_files(made.path, [file.path for file in manifest.files])
        assert manifest.files and content_id(verb, manifest.fingerprint, now) == made.id


def test_the_bundle_goes_back_to_the_documents(life: Path) -> None:
    line = ancestors(Artifact.load(life / "export"))
    assert set(line) == {"export", "average", "align", "finetune", "pretrain", "tokenize", "prepare"}
    assert not line["prepare"].manifest.parents
    counted = sum(len(list(read_corpus(life / "prepare" / side))) for side in ("train", "validation"))
    for verb in ("prepare", "tokenize", "pretrain"):
        assert line[verb].manifest.provenance.licences == {LICENCE: counted}
    told = [line[verb].manifest.provenance.documents for verb in ("pretrain", "finetune", "align", "export")]
    assert told[0] == counted < told[1] < told[2] == told[3]  # conversations and pairs are data too
    assert set(line["export"].manifest.provenance.licences) == {LICENCE}
    assert set(ancestors(Artifact.load(life / "evaluate"))) == {*WHOLE_LIFE[:6]}
    assert "average" in ancestors(Artifact.load(life / "compress"))


def test_pre_training_makes_held_out_text_likelier(life: Path) -> None:
    measured = [
        row["validation_bits_per_byte"]
        for row in metrics(life, "pretrain")
        if "validation_bits_per_byte" in row
    ]
    assert len(measured) >= 5
    assert measured[-1] < 0.9 * measured[0] < 0.9 * 8
    assert Artifact.load(life / "pretrain").metrics["validation_bits_per_byte"] == measured[-1]
    # The evaluation measures the same text for itself, from the saved files.
    evaluated = read_json(life / "evaluate" / "results.json")["base"]["bits_per_byte"]
    assert evaluated["low"] < measured[-1] < evaluated["high"]


def test_fine_tuning_makes_held_out_answers_likelier(life: Path, one_thread: None) -> None:
    base, sft = held_out_loss(life, "pretrain"), held_out_loss(life, "finetune")
    assert sft == pytest.approx(Artifact.load(life / "finetune").metrics["validation_loss"], rel=1e-5)
    assert sft < base - 0.3


def test_alignment_ranks_held_out_pairs(life: Path) -> None:
    first, found = metrics(life, "align")[0], Artifact.load(life / "align").metrics
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6) and first["margin"] == 0
    assert found["validation_loss"] < math.log(2)
    assert found["validation_accuracy"] > 0.5
    assert found["validation_margin"] > 0


def test_the_best_of_the_averages_is_handed_on(life: Path) -> None:
    found = read_json(life / "average" / "candidates.json")
    rows = {row["candidate"]: row for row in found["candidates"]}
    last, ema, uniform, soup = rows
    assert (last, ema, soup) == ("last", "ema 0.03", "soup") and uniform.startswith("uniform of last")
    chosen = [name for name, row in rows.items() if row["chosen"]]
    losses = {name: row["validation_loss"] for name, row in rows.items()}
    assert (
        found["judged_by"] == "validation_loss" and len({losses[name] for name in (last, ema, uniform)}) == 3
    )
    shown = [name for name, test in found["test"].items() if test["high"] < 0]
    assert chosen == (shown or ["last"]), "better is a claim that a test has to bear out"
    # "last" is the aligned model itself, so it must be judged as training judged it.
    trained = Artifact.load(life / "align").metrics["validation_loss"]
    assert losses["last"] == pytest.approx(trained, rel=1e-5)


def test_int8_is_small_and_agrees(life: Path) -> None:
    whole, small = life / "average" / "model", life / "compress" / "model"
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, small)]
    assert sizes[1] < sizes[0] / 2
    damage = read_json(life / "compress" / "damage.json")
    assert [damage["bytes_before"], damage["bytes_after"]] == sizes
    assert damage["top1"]["mean"] > 0.95 and damage["top1"]["n"] > 200
    assert abs(damage["bits_per_byte_change"]["mean"]) < 0.02


def test_independent_readers_agree_with_the_export(life: Path) -> None:
    pytest.importorskip("transformers")
    verdicts = read_json(life / "export" / "verification.json")
    status = {(v["file"], v["reader"], v["check"]): v["status"] for v in verdicts}
    checks, ggufs = ("tokens", "chat template", "logits"), ("model-f16.gguf", "model-q8_0.gguf")
    wanted = {(file, "transformers", check) for file in ("hf", *ggufs) for check in checks}
    if importlib.util.find_spec("llama_cpp"):
        wanted |= {(file, "llama-cpp-python", check) for file in ggufs for check in checks}
    assert {key for key, value in status.items() if value == "passed"} == wanted
    assert set(status.values()) <= {"passed", "not verified"}
    assert Artifact.load(life / "export").metrics["verification"] == "verified"


def test_transformers_says_what_we_say(life: Path, one_thread: None) -> None:
    transformers = pytest.importorskip("transformers")
    folder = life / "export" / "hf"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    talk = [{"role": "user", "content": "What is the capital of Norway?"}]
    asked = tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    made = theirs.generate(asked, max_new_tokens=12, do_sample=False)[0, asked.shape[1] :]
    engine = Engine(load_model(life / "average" / "model").eval(), BPETokenizer.load(folder))
    ours = engine.sample([asked[0].tolist()], Sampling(max_tokens=12))[0]
    assert ours.ids and tuple(made.tolist())[: len(ours.ids)] == ours.ids


class Page(HTMLParser):
    """What a page loads, runs and says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [
            v or "" for name, v in attrs if name in ("src", "href", "data", "srcset", "xlink:href")
        ]
        assert not [name for name, _ in attrs if name.startswith("on")], "a script in an attribute"

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_stands_alone_and_names_every_station(life: Path) -> None:
    text = (life / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "img"}
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"@import|url\((?!['\"]?#)", text)
    assert "svg" in page.tags
    said = " ".join(page.words)
    assert all(re.search(rf"\b{verb}\b", said) for verb in WHOLE_LIFE)
    for role, rows in read_json(life / "evaluate" / "results.json").items():
        assert f"{rows['bits_per_byte']['mean']:.3f}" in said, f"bits per byte of {role} is not in the report"
    for made in artifacts(life).values():
        assert made.id[:8] in said


def test_trace_leads_to_the_documents_and_back(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "trace", life / "export")
    node, seen = found["artifact"], []
    while node:
        seen.append(node["stage"])
        assert not node["note"]
        node = next(
            (parent for parent in node["parents"] if parent["role"] in ("model", "tokens", "corpus")), 0
        )
    assert (seen[0], seen[-1]) == ("export", "prepare")
    train = list(read_corpus(life / "prepare" / "train"))
    held_out = list(read_corpus(life / "prepare" / "validation"))
    counted = Artifact.load(life / "export").manifest.provenance.documents
    assert found["documents"]["count"] == counted > len(train) + len(held_out)
    by_kind = {kind: texts["count"] for kind, texts in found["learned_from"].items()}
    assert list(by_kind) == ["documents", "conversations", "preference pairs"]
    assert by_kind["documents"] == len(train) + len(held_out) and sum(by_kind.values()) == counted

    seen_by = json_of(capsys, "trace", life, "--document", train[3].id)
    assert seen_by["text"] == train[3].text
    roles = [model.split()[0] for model in seen_by["models"]]
    assert roles == ["base", "sft", "aligned", "averaged", "quantized", "bundle"]
    assert json_of(capsys, "trace", life, "--document", held_out[0].id)["models"] == []

    shards = TokenShards.open(life / "tokenize" / "train")
    position = len(shards) // 2
    there = json_of(capsys, "trace", life, "--token", str(position))
    piece = BPETokenizer.load(life / "tokenize" / "tokenizer").decode(shards.read(position, 1).tolist())
    assert piece in there["text"] and there["document"] in {document.id for document in train}


def test_a_second_run_makes_nothing_anew(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {verb: (life / verb / "manifest.json").stat() for verb in WHOLE_LIFE}
    capsys.readouterr()
    assert main(command(life)) == 0
    assert capsys.readouterr().err.count("(unchanged: skipped)") == len(WHOLE_LIFE)
    for verb, stat in before.items():
        now = (life / verb / "manifest.json").stat()
        assert (now.st_ino, now.st_mtime_ns) == (stat.st_ino, stat.st_mtime_ns)


def test_a_changed_setting_makes_anew_what_depends_on_it(life: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    shutil.copytree(life, folder)
    before = ids(folder)
    assert main([*command(folder, {"compress.kept_dtype": "float32"}), "--quiet"]) == 0
    now = ids(folder)
    assert {verb for verb in WHOLE_LIFE if now[verb] != before[verb]} == {
        "compress"
    }  # export takes the whole model
    assert Artifact.load(folder / "replaced" / "compress-1").id == before["compress"]
    sizes = [read_json(run / "compress" / "damage.json")["bytes_after"] for run in (life, folder)]
    assert sizes[0] < sizes[1]


def test_killed_twice_a_life_ends_with_the_same_artifacts(life: Path, tmp_path: Path) -> None:
    folder, said, errors = tmp_path / "tiny", tmp_path / "said", tmp_path / "errors"
    # The folder has the same name: an exported model is called by it.
    for station, at in (("pretrain", 33), ("finetune", 13)):
        code = children.run(errors, doomed, folder, code_revision(), station, at, said)
        assert code == -signal.SIGKILL, errors.read_text()
        assert not (folder / station / "manifest.json").exists()
    assert children.run(errors, doomed, folder, code_revision(), "never", 0, said) == 0, errors.read_text()
    for station, resumed in (("pretrain", 20), ("finetune", 8)):
        assert f"resuming after step {resumed}\n" in (folder / station / "log.txt").read_text()
        assert metrics(folder, station) == metrics(life, station)
    assert said.read_text().count("(unchanged: skipped)") == 3  # prepare, tokenize, pretrain
    assert ids(folder) == ids(life)

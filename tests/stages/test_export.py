"""The export gate: a good export passes and says by whom; every known way to break one is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tokenizer.families import FAMILIES

from modelwright.base.artifact import Artifact
from modelwright.base.errors import GateRefused, UserError
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.evaluation.torture import CONVERSATIONS
from modelwright.evaluation.verification import Verdict
from modelwright.formats import gguf, gguf_vocabulary
from modelwright.formats.huggingface import load_tensors
from modelwright.stages import export
from modelwright.stages.export import Config

MakeModel = Callable[..., Path]
Bench = Callable[[Config, Artifact], Run]
SOURCES = Provenance.count(
    [*[("atlas", "CC0-1.0", "FR", "no")] * 2, ("a|b.txt", "MIT", "FR", "no")],
)


@pytest.fixture
def trained(tiny_model: MakeModel, tmp_path: Path) -> Callable[..., Artifact]:
    """An artifact as `finetune` would leave it."""

    def make(architecture: str = "qwen3", family: str = "", **settings: object) -> Artifact:
        run = Run(tmp_path / "life" / "finetune", "finetune", "sft", Config(), 1)
        shutil.copytree(tiny_model(architecture, **settings), run.dir / "model")
        if family:
            (run.dir / "model" / "chat_template.jinja").unlink()
            FAMILIES[family].write(run.dir / "model")
        run.brings_in(SOURCES)
        return run.finish(files=["model"], metrics={"loss": 1.25}, tokens=1000)

    return make


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """The workbench of the export stage; what a refused stage leaves open is closed."""
    made: list[Run] = []

    def make(config: Config, model: Artifact) -> Run:
        made.append(Run(tmp_path / "life" / "export", "export", "bundle", config, 1, {"model": model}))
        return made[-1]

    yield make
    for run in made:
        run.close()


def read_verdicts(tmp_path: Path) -> list[Mapping[str, Any]]:
    return json.loads((tmp_path / "life" / "export" / "verification.json").read_text())


def test_a_good_export_is_verified_and_described(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = Config(sequences=2, sequence_length=64)
    artifact = export.run(config, bench(config, trained()))
    paths = {file.path for file in artifact.manifest.files}
    assert {"hf/config.json", "hf/model.safetensors", "gguf/model-f16.gguf", "gguf/model-q8_0.gguf"} <= paths
    assert {"Modelfile", "README.md", "verification.json"} <= paths and artifact.damage(hashes=True) is None
    assert artifact.metrics["verification"] == "verified"
    by_transformers = [v for v in read_verdicts(tmp_path) if v["reader"] == "transformers"]
    assert [(v["file"], v["check"]) for v in by_transformers] == [
        (file, check)
        for file in ("hf", "model-f16.gguf", "model-q8_0.gguf")
        for check in ("tokens", "chat template", "logits")
    ]
    assert {v["status"] for v in by_transformers} == {"passed"}
    card = (artifact.path / "README.md").read_text()
    numbers = sum(t.numel() for t in load_tensors(artifact.path / "hf" / "model.safetensors").values())
    assert f"{numbers:,} parameters" in card
    for words in ("license: other", "CC0-1.0", "a\\|b.txt", "finetune", "loss 1.25", "llama-cli", "passed"):
        assert words in card
    modelfile = (artifact.path / "Modelfile").read_text()
    assert (
        modelfile.startswith("FROM ./gguf/model-q8_0.gguf\n") and 'PARAMETER stop "<|im_end|>"' in modelfile
    )


def test_conversations_that_a_template_refuses_are_not_called_alike(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    model = trained("qwen3", family="qwen-2", vocab_size=700)
    settings = model.path / "model" / "tokenizer_config.json"
    kept = {name: v for name, v in json.loads(settings.read_text()).items() if name != "chat_template"}
    settings.write_text(json.dumps(kept))
    (model.path / "model" / "chat_template.jinja").unlink(missing_ok=True)
    config = Config(gguf=(), sequences=2, sequence_length=64, readers="require")
    artifact = export.run(config, bench(config, model))
    statuses = {verdict["check"]: verdict["status"] for verdict in read_verdicts(tmp_path)}
    assert statuses == {"tokens": "passed", "chat template": "not verified", "logits": "passed"}
    log = (artifact.path / "log.txt").read_text()
    assert f"{len(CONVERSATIONS)} of {len(CONVERSATIONS)} conversations are not compared" in log
    assert "has no chat template" in log


def test_without_a_reader_it_says_not_verified(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "why_missing", lambda name, path: f"{name} not installed")
    artifact = export.run(Config(gguf=("f16",)), bench(Config(gguf=("f16",)), trained()))
    assert artifact.metrics["verification"] == "not verified"
    assert {v["status"] for v in read_verdicts(tmp_path)} == {"not verified"}
    assert "not verified" in (artifact.path / "README.md").read_text()


def test_readers_can_be_required(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "why_missing", lambda name, path: f"{name} not installed")
    config = Config(gguf=(), readers="require")
    with pytest.raises(GateRefused, match="not installed"):
        export.run(config, bench(config, trained()))
    assert not (tmp_path / "life" / "export" / "manifest.json").exists()


@pytest.mark.parametrize("family", ["qwen-2", "llama-3", "gemma without GGUF"])
def test_an_imported_tokenizer_and_its_template_are_exported(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path, family: str
) -> None:
    pytest.importorskip("transformers")
    config = Config(gguf=() if "without" in family else ("f32",), sequences=2, sequence_length=64)
    model = trained("qwen3", family=family.partition(" ")[0], vocab_size=700)
    export.run(config, bench(config, model))
    verdicts = read_verdicts(tmp_path)
    assert {v["check"] for v in verdicts if v["status"] == "passed"} >= {"tokens", "chat template", "logits"}


def swap_tokens(content: Any, rows: int) -> Any:
    tokens, types = _tokens(content, rows)
    tokens[300], tokens[301] = tokens[301], tokens[300]
    return tokens, types


_tokens = gguf_vocabulary._tokens
_write = gguf.write_gguf


def write_truncated(folder: Path, out: Path, kind: Any, about: Any) -> None:
    _write(folder, out, kind, about)
    out.write_bytes(out.read_bytes()[:-5000])


def drop_scale(kind: str) -> Callable[..., Any]:
    real = gguf._converted

    def spoiled(name: str, weight: torch.Tensor, *rest: Any) -> Any:
        return real(name, weight * 1.5 if name.endswith(kind) else weight, *rest)

    return spoiled


@pytest.mark.parametrize(
    ("target", "name", "spoil", "check"),
    [
        (gguf, "interleave_rotary", lambda weight, heads: weight, "logits"),
        (gguf_vocabulary, "_pre_tokenizer", lambda content: "gpt-2", "tokens"),
        (gguf_vocabulary, "_tokens", swap_tokens, "tokens"),
        (gguf, "_converted", drop_scale("1.mlp.gate_proj.weight"), "logits"),
        (export, "write_gguf", write_truncated, "reads it"),
    ],
    ids=[
        "rows of q and k not reordered",
        "wrong pre-tokenizer",
        "shuffled vocabulary",
        "weights",
        "truncated",
    ],
)
@pytest.mark.parametrize("reader", ["transformers", "llama-cpp-python"])
def test_a_broken_export_is_refused(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    target: Any, name: str, spoil: Any, check: str, reader: str,
) -> None:  # fmt: skip
    if export.why_missing(reader, Path("m.gguf")):
        pytest.skip(f"{reader} is not installed")
    monkeypatch.setattr(target, name, spoil)
    monkeypatch.setattr(export, "_READERS", {reader: export._READERS[reader]})
    config = Config(gguf=("f16",), sequences=2, sequence_length=64)
    with pytest.raises(GateRefused, match=rf"model-f16\.gguf, {check}, {reader}"):
        export.run(config, bench(config, trained("llama")))
    failed = [v for v in read_verdicts(tmp_path) if v["status"] == "failed"]
    assert check in {v["check"] for v in failed} and all(v["file"] == "model-f16.gguf" for v in failed)
    assert not (tmp_path / "life" / "export" / "manifest.json").exists()


def test_a_folder_read_with_another_rope_base_is_refused(
    trained: Callable[..., Artifact], bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    real = export._write_bundle

    def spoiled(*arguments: Any) -> Any:
        made = real(*arguments)
        file = made["folder"] / "config.json"
        content = json.loads(file.read_text())
        content["rope_parameters"]["rope_theta"] = content["rope_theta"] = 500.0
        file.write_text(json.dumps(content))
        return made

    monkeypatch.setattr(export, "_write_bundle", spoiled)
    config = Config(gguf=(), sequences=2, sequence_length=64)
    with pytest.raises(GateRefused, match="hf, logits"):
        export.run(config, bench(config, trained()))


def test_a_quantized_model_is_refused(trained: Callable[..., Artifact], bench: Bench, tmp_path: Path) -> None:
    model = trained()
    file = model.path / "model" / "config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "quantization_config": {"quant_method": "x"}})
    )
    with pytest.raises(UserError, match="full-precision"):
        export.run(Config(), bench(Config(), model))


def test_a_verdict_reads_as_a_sentence() -> None:
    verdict = Verdict(
        file="m.gguf", reader="r", version="1", check="logits", status="failed", measured=0.5, tolerance=0.01
    )
    assert str(verdict) == "m.gguf, logits, r 1: failed 5.0e-01 (at most 1e-02)"

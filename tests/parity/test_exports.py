"""Exported files against independent programs: equal tokens, equal templates, close logits."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.base.errors import DamagedFile
from modelwright.evaluation.torture import CONVERSATIONS, TORTURE
from modelwright.evaluation.verification import Evidence, judge
from modelwright.formats.gguf import write_gguf
from modelwright.formats.llama_cpp import LlamaCppReader
from modelwright.formats.readers import TRANSFORMERS, OwnReader, TransformersReader, why_missing
from modelwright.stages.export import Config

MakeModel = Callable[..., Path]
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
SHAPES = [
    ("qwen3", {"head_dim": 32}),
    ("llama", {"head_dim": 32, "tie_word_embeddings": False, "rope_theta": 5e5}),
    ("qwen2", {}),
    ("mistral", {"head_dim": 32, "sliding_window": 128}),
    (
        "qwen3_moe",
        {"head_dim": 32, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
    ),
    ("llama", {"head_dim": 32, "rope_scaling": LLAMA3}),
]


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape[0])
def exported(
    request: pytest.FixtureRequest, tiny_model: MakeModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Evidence, Path]]:
    """(model folder, our answers, folder with a GGUF file of each type)."""
    architecture, settings = request.param
    folder, files = tiny_model(architecture, **settings), tmp_path_factory.mktemp("gguf")
    for kind in ("f32", "f16", "q8_0"):
        write_gguf(folder, files / f"{kind}.gguf", kind)
    ours = OwnReader(folder)
    ids = ours.tokenize("".join(TORTURE))
    yield folder, Evidence.of(ours, TORTURE, CONVERSATIONS, [ids[:128], ids[200:300]]), files


def all_pass(evidence: Evidence, reader: Any, kind: str) -> None:
    verdicts = judge(evidence, reader, file=kind, reader="r", version="v", tolerance=Config().tolerance(kind))
    assert [v.check for v in verdicts] == ["tokens", "chat template", "logits"]
    assert all(v.status == "passed" for v in verdicts), "\n".join(map(str, verdicts))


def test_transformers_reads_the_folder(exported: tuple[Path, Evidence, Path]) -> None:
    pytest.importorskip("transformers")
    all_pass(exported[1], TransformersReader(exported[0]), "folder")


@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_transformers_reads_the_gguf(exported: tuple[Path, Evidence, Path], kind: str) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    all_pass(exported[1], TransformersReader(exported[2] / f"{kind}.gguf"), kind)


@pytest.mark.skipif(not importlib.util.find_spec("llama_cpp"), reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("kind", ["f32", "f16", "q8_0"])
def test_llama_cpp_reads_the_gguf(exported: tuple[Path, Evidence, Path], kind: str) -> None:
    all_pass(exported[1], LlamaCppReader(exported[2] / f"{kind}.gguf"), kind)


@pytest.mark.skipif(not importlib.util.find_spec("llama_cpp"), reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("damage", ["truncated", "garbled", "empty"])
def test_llama_cpp_says_why_it_refuses(
    exported: tuple[Path, Evidence, Path], tmp_path: Path, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    raw = (exported[2] / "f16.gguf").read_bytes()
    broken = {"truncated": raw[: len(raw) // 2], "garbled": b"GARB" + raw[4:], "empty": b""}[damage]
    (tmp_path / "m.gguf").write_bytes(broken)
    with pytest.raises(DamagedFile, match="cannot load"):
        LlamaCppReader(tmp_path / "m.gguf")
    assert capfd.readouterr() == ("", "")


def test_that_transformers_reads_no_gemma_in_gguf_is_said(tiny_model: MakeModel, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    for architecture in ("gemma", "llama"):
        write_gguf(tiny_model(architecture), tmp_path / f"{architecture}.gguf", "f16")
    reasons = [why_missing(TRANSFORMERS, tmp_path / f"{name}.gguf") for name in ("gemma", "llama")]
    assert reasons == ["transformers reads no GGUF files of gemma", None]


def test_special_tokens_in_plain_text_stay_plain(exported: tuple[Path, Evidence, Path]) -> None:
    ours = OwnReader(exported[0])
    assert max(len(ours.tokenize("<|im_end|>")), 2) == len(ours.tokenize("<|im_end|>"))
    assert not {0, 1, 2} & {i for text in TORTURE for i in ours.tokenize(text)}


def test_a_reader_whose_logits_are_not_numbers_fails(exported: tuple[Path, Evidence, Path]) -> None:
    class Broken(OwnReader):
        def logits(self, ids: Any) -> torch.Tensor:
            return super().logits(ids) * float("nan")

    verdicts = judge(exported[1], Broken(exported[0]), file="f", reader="r", version="v", tolerance=1e9)
    assert [v.status for v in verdicts] == ["passed", "passed", "failed"]
    assert verdicts[-1].measured is None and "not finite" in str(verdicts[-1])

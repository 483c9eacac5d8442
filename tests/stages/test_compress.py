"""compress: what it saves, what it measures, and that it measures the file."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.run import Run
from modelwright.formats.huggingface import load_model
from modelwright.model.quantized import Int4Linear, Int8Linear
from modelwright.stages import compress
from modelwright.stages.compress import Config
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shard_writer import write_shards


@pytest.fixture
def inputs(tiny_model: Callable[..., Path], tiny_tokenizer: Path, tmp_path: Path) -> dict[str, Artifact]:
    tokens = Run(tmp_path / "tokenize", "tokenize", "tokens", Config(), 1)
    shutil.copytree(tiny_tokenizer, tokens.dir / "tokenizer")
    tokenizer = BPETokenizer.load(tiny_tokenizer)
    words = ["The capital", " of France", " is Paris", ". ", "Киев", "\n", "1234"]
    source = random.Random(3)
    with write_shards(
        tokens.dir / "validation", vocab_size=tokenizer.vocab_size, end_of_text_id=tokenizer.end_of_text_id
    ) as writer:
        for number in range(8):
            text = "".join(source.choices(words, k=60))
            writer.add(
                tokenizer.encode(text), document=f"{number:064x}", source="test", num_bytes=len(text.encode())
            )
    model = Run(tmp_path / "pretrain", "pretrain", "base", Config(), 1)
    shutil.copytree(tiny_model("qwen3"), model.dir / "model")
    return {
        "tokens": tokens.finish(files=["tokenizer", "validation"]),
        "model": model.finish(files=["model"]),
    }


def test_the_model_is_smaller_and_the_damage_is_on_record(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    config = Config(sequences=6, sequence_length=64)
    artifact = compress.run(config, Run(tmp_path / "out", "compress", "quantized", config, 1, inputs))
    damage = json.loads((artifact.path / "damage.json").read_text())
    assert damage["bytes_after"] < 0.5 * damage["bytes_before"]
    assert damage["bits_per_weight_after"] == pytest.approx(8 * damage["bytes_after"] / damage["parameters"])
    assert 0 < damage["mean_kl"]["low"] < damage["mean_kl"]["mean"] < damage["mean_kl"]["high"] < 0.05
    assert damage["kl_99"]["mean"] > damage["mean_kl"]["mean"]
    assert 0.9 < damage["top1"]["mean"] <= 1 and damage["top1"]["n"] == 6 * 64
    change = damage["bits_per_byte_after"] - damage["bits_per_byte_before"]
    assert damage["bits_per_byte_change"]["mean"] == pytest.approx(change, abs=1e-9)
    assert damage["bits_per_byte_change"]["low"] <= change <= damage["bits_per_byte_change"]["high"]
    assert damage["top1_target_met"] == (damage["top1"]["mean"] >= 0.99)
    assert artifact.metrics["top1"] == damage["top1"]["mean"]
    layers = [m for m in load_model(artifact.path / "model").modules() if isinstance(m, Int8Linear)]
    assert len(layers) == 14


def test_with_4_bits_it_is_smaller_still_and_the_damage_greater(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    damages = {}
    for bits in (8, 4):
        config = Config.model_validate({"bits": bits, "sequences": 6, "sequence_length": 64})
        artifact = compress.run(config, Run(tmp_path / f"{bits}", "compress", "quantized", config, 1, inputs))
        damages[bits] = json.loads((artifact.path / "damage.json").read_text())
    layers = [m for m in load_model(tmp_path / "4" / "model").modules() if isinstance(m, Int4Linear)]
    assert len(layers) == 14
    assert damages[4]["bytes_after"] < 0.8 * damages[8]["bytes_after"]
    assert damages[8]["mean_kl"]["high"] < damages[4]["mean_kl"]["low"] < 1.0


def test_a_short_validation_text_still_gives_two_sequences(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    config = Config(sequences=4, sequence_length=4096, kept_dtype="float32")
    artifact = compress.run(config, Run(tmp_path / "out", "compress", "quantized", config, 1, inputs))
    damage = json.loads((artifact.path / "damage.json").read_text())
    assert damage["mean_kl"]["n"] >= 2


def test_missing_the_target_is_said(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    config = Config(sequences=2, sequence_length=64, top1_target=1.0, kept_dtype="bfloat16")
    artifact = compress.run(config, Run(tmp_path / "out", "compress", "quantized", config, 1, inputs))
    missed = not artifact.metrics["top1_target_met"]
    assert missed == ("below the target" in (artifact.path / "log.txt").read_text())


def test_without_text_of_its_own_the_damage_is_measured_on_the_embedded_corpus(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    """As for an imported model, which no shards come with."""
    del inputs["tokens"]
    config = Config(sequences=6, sequence_length=64)
    made = compress.run(config, Run(tmp_path / "out", "compress", "quantized", config, 1, inputs))
    damage = json.loads((made.path / "damage.json").read_text())
    assert damage["mean_kl"]["n"] == 6 and 0 < damage["mean_kl"]["mean"] < 0.05
    assert 0 < damage["bits_per_byte_after"] == pytest.approx(damage["bits_per_byte_before"], rel=0.05)

"""What a GGUF file says and holds, read with the `gguf` package alone."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, quants
from safetensors.torch import load_file, save_file
from tests.tokenizer.families import SAMPLE

from modelwright.base.errors import DamagedFile, UserError
from modelwright.formats.gguf import About, gguf_name, interleave_rotary, write_gguf
from modelwright.formats.llama_cpp import LlamaCppReader
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.sentencepiece import from_sentencepiece

MakeModel = Callable[..., Path]


def field(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


@pytest.fixture
def copied(tiny_model: MakeModel, tmp_path: Path) -> Path:
    """A model folder that a test may spoil."""
    return Path(shutil.copytree(tiny_model("llama"), tmp_path / "model"))


def change_json(file: Path, change: Callable[[Any], None]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def test_the_metadata_says_all_that_readers_need(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder, out = tiny_model("qwen3"), tmp_path / "model.gguf"
    write_gguf(folder, out, "f16", About(name="tiny", licence="CC0-1.0", source="abc"))
    reader, tokenizer = GGUFReader(out), BPETokenizer.load(folder)
    expected = {
        "general.architecture": "qwen3", "general.name": "tiny", "general.license": "CC0-1.0",
        "general.type": "model", "general.file_type": 1, "general.quantization_version": 2,
        "modelwright.source_artifact": "abc",
        "qwen3.block_count": 2, "qwen3.context_length": 128, "qwen3.embedding_length": 64,
        "qwen3.feed_forward_length": 96, "qwen3.attention.head_count": 4,
        "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 16,
        "qwen3.attention.value_length": 16, "qwen3.rope.freq_base": 10000.0,
        "qwen3.rope.dimension_count": 16, "qwen3.vocab_size": tokenizer.vocab_size,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.add_bos_token": False, "tokenizer.ggml.bos_token_id": tokenizer.end_of_text_id,
        "tokenizer.ggml.eos_token_id": tokenizer.end_of_turn_id,
        "tokenizer.ggml.eot_token_id": tokenizer.end_of_turn_id,
        "tokenizer.ggml.padding_token_id": tokenizer.pad_id,
        "tokenizer.chat_template": tokenizer.chat_template,
        "tokenizer.ggml.tokens": tokenizer.tokens,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer.merges],
    }  # fmt: skip
    assert {name: field(reader, name) for name in expected} == expected
    assert field(reader, "qwen3.attention.layer_norm_rms_epsilon") == pytest.approx(1e-6)
    types = field(reader, "tokenizer.ggml.token_type")
    assert types[:4] == [3, 3, 3, 1] and set(types[3:]) == {1}


@pytest.mark.parametrize("file_type", ["f32", "f16", "q8_0"])
def test_tensors_hold_the_weights_and_norms_stay_f32(
    tiny_model: MakeModel, tmp_path: Path, file_type: Any
) -> None:
    folder, out = tiny_model("qwen3", tie_word_embeddings=False), tmp_path / "model.gguf"
    write_gguf(folder, out, file_type)
    weights = {gguf_name(name): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors = {tensor.name: tensor for tensor in GGUFReader(out).tensors}
    assert tensors.keys() == weights.keys()
    for name, tensor in tensors.items():
        expected_type = file_type if weights[name].dim() > 1 else "f32"
        assert tensor.tensor_type == GGMLQuantizationType[expected_type.upper()]
        stored = quants.dequantize(tensor.data, tensor.tensor_type)
        exact = weights[name].numpy()
        blocks = np.abs(exact).max()
        tolerance = {"f32": 0.0, "f16": blocks * 2**-11, "q8_0": blocks / 127}[expected_type]
        assert stored.shape == exact.shape and np.abs(stored - exact).max() <= tolerance


def test_rows_that_a_block_does_not_divide_become_f16(tiny_model: MakeModel, tmp_path: Path) -> None:
    write_gguf(tiny_model("qwen3", intermediate_size=72), tmp_path / "m.gguf", "q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_equal_models_give_equal_bytes_and_nothing_is_left_beside_them(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = tiny_model("qwen2")
    for name in ("a.gguf", "b.gguf"):
        write_gguf(folder, tmp_path / name, "q8_0")
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.gguf", "b.gguf"]


def test_interleave_rotary_brings_rotated_rows_side_by_side() -> None:
    rows = torch.arange(2 * 6).view(12, 1)  # two heads of six: halves 0 1 2 | 3 4 5
    assert interleave_rotary(rows, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


def test_more_embeddings_than_tokens_are_filled_with_unused_ones(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder = tiny_model("qwen3", vocab_size=512)
    write_gguf(folder, tmp_path / "m.gguf", "f16")
    reader = GGUFReader(tmp_path / "m.gguf")
    assert field(reader, "tokenizer.ggml.tokens")[-1] == "[UNUSED511]"
    assert field(reader, "tokenizer.ggml.token_type")[-1] == 5


def test_a_tokenizer_of_another_model_is_refused(tiny_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not belong together"):
        write_gguf(tiny_model("qwen3", vocab_size=300), tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.iterdir())


def test_an_unknown_pre_tokenizer_is_refused_not_guessed(copied: Path, tmp_path: Path) -> None:
    def spoil(content: Any) -> None:
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] += "|x"

    change_json(copied / "tokenizer.json", spoil)
    with pytest.raises(UserError, match="no name for that"):
        write_gguf(copied, tmp_path / "m.gguf", "f16")


def test_a_chat_template_is_written_from_where_it_stands_or_not_at_all(copied: Path, tmp_path: Path) -> None:
    change_json(copied / "tokenizer_config.json", lambda content: content.pop("chat_template"))
    write_gguf(copied, tmp_path / "m.gguf", "f16")
    template = BPETokenizer.load(copied).chat_template
    assert template and field(GGUFReader(tmp_path / "m.gguf"), "tokenizer.chat_template") == template
    (copied / "chat_template.jinja").unlink()
    write_gguf(copied, tmp_path / "n.gguf", "f16")
    assert "tokenizer.chat_template" not in GGUFReader(tmp_path / "n.gguf").fields


@pytest.mark.parametrize("damage", ["truncate", "garble header", "empty"])
def test_damaged_weights_are_refused(copied: Path, tmp_path: Path, damage: str) -> None:
    file = copied / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes({"truncate": raw[:-100], "garble header": b"\xff" * 64 + raw[64:], "empty": b""}[damage])
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        write_gguf(copied, tmp_path / "m.gguf", "f16")
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("value", "file_type", "words"),
    [
        (float("nan"), "q8_0", "not finite"),
        (float("inf"), "f32", "not finite"),
        (1e6, "f16", "more than F16"),
    ],
)
def test_weights_that_the_type_cannot_hold_are_refused(
    copied: Path, tmp_path: Path, value: float, file_type: Any, words: str
) -> None:
    weights = load_file(copied / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 5] = value
    save_file(weights, copied / "model.safetensors")
    with pytest.raises(UserError, match=words):
        write_gguf(copied, tmp_path / "m.gguf", file_type)
    assert not (tmp_path / "m.gguf").exists()


def test_what_llama_cpp_cannot_load_is_said_before_it_is_written(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="heads x head_dim"):
        write_gguf(tiny_model("qwen2", head_dim=32), tmp_path / "m.gguf", "f16")
    with pytest.raises(UserError, match="Did you mean 'q8_0'"):
        write_gguf(tiny_model("qwen3"), tmp_path / "m.gguf", "q8" + "_k")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no place in a GGUF"):
        gguf_name("model.layers.0.self_attn.rotary.inv_freq")


MIXTURE = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def test_experts_are_stacked_and_their_router_is_kept_in_full(tiny_model: MakeModel, tmp_path: Path) -> None:
    write_gguf(tiny_model("qwen3_moe", **MIXTURE), tmp_path / "m.gguf", "q8_0")
    reader = GGUFReader(tmp_path / "m.gguf")
    stated = {"general.architecture": "qwen3moe", "qwen3moe.expert_count": 3,
              "qwen3moe.expert_used_count": 2, "qwen3moe.expert_feed_forward_length": 32}  # fmt: skip
    assert {name: field(reader, name) for name in stated} == stated
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    assert tensors["blk.1.ffn_down_exps.weight"].shape.tolist() == [32, 64, 3]
    assert tensors["blk.1.ffn_down_exps.weight"].tensor_type == GGMLQuantizationType.Q8_0
    assert tensors["blk.0.ffn_gate_inp.weight"].tensor_type == GGMLQuantizationType.F32


def test_mixtures_that_llama_cpp_would_read_as_others_are_refused(
    tiny_model: MakeModel, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="norm_topk_prob"):
        write_gguf(tiny_model("qwen3_moe", **MIXTURE, norm_topk_prob=False), tmp_path / "m.gguf", "f16")
    with pytest.raises(UserError, match="in every layer; this model in 1 of 2"):
        write_gguf(tiny_model("qwen3_moe", **MIXTURE, mlp_only_layers=(0,)), tmp_path / "m.gguf", "f16")
    assert not list(tmp_path.iterdir())


def sentencepiece_folder(folder: Path, byte_fallback: bool = True) -> BPETokenizer:
    """In the place of the folder's tokenizer, one of SentencePiece's with a template of its own."""
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE.splitlines() * 30), model_writer=written, model_type="bpe",
        vocab_size=330, normalization_rule_name="identity", minloglevel=2, hard_vocab_limit=False,
        byte_fallback=byte_fallback, remove_extra_whitespaces=False,
    )  # fmt: skip
    (folder / "m.model").write_bytes(written.getvalue())
    from_sentencepiece(folder / "m.model").save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}
    change_json(folder / "tokenizer_config.json", lambda content: content.update(names))
    template = "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m.content + eos_token }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return BPETokenizer.load(folder)


def test_sentencepiece_as_llama_cpp_reads_it(tiny_model: MakeModel, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    folder = Path(shutil.copytree(tiny_model("llama", vocab_size=400), tmp_path / "model"))
    tokenizer = sentencepiece_folder(folder)
    write_gguf(folder, tmp_path / "m.gguf", "f32")
    reader = GGUFReader(tmp_path / "m.gguf")
    assert field(reader, "tokenizer.ggml.model") == "llama"
    assert field(reader, "tokenizer.ggml.add_bos_token") and field(reader, "tokenizer.ggml.add_space_prefix")
    assert field(reader, "tokenizer.ggml.eos_token_id") == tokenizer.special_ids["</s>"]
    theirs = LlamaCppReader(tmp_path / "m.gguf")
    for text in (*SAMPLE.splitlines(), "The quick, quick fox!", "Grüße ჱ 日本 😀", "two  spaces", "<s>x</s>"):
        assert theirs.tokenize(text) == tokenizer.encode(text), text
    theirs.close()


def test_merges_that_llama_cpp_would_add_are_refused(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model("llama", vocab_size=400), tmp_path / "model"))
    sentencepiece_folder(folder)
    change_json(folder / "tokenizer.json", lambda content: content["model"]["merges"].pop(5))
    with pytest.raises(UserError, match="does not merge"):
        write_gguf(folder, tmp_path / "m.gguf", "f32")

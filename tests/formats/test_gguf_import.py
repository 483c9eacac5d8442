"""GGUF files read: what we wrote comes back, llama.cpp computes the same, and damaged files say so."""

from __future__ import annotations

import importlib.util
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, quants
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.errors import DamagedFile, UserError
from modelwright.evaluation.torture import TORTURE
from modelwright.formats.gguf import write_gguf
from modelwright.formats.gguf_file import GGUFFile
from modelwright.formats.gguf_import import import_gguf
from modelwright.formats.gguf_names import gguf_name
from modelwright.formats.gguf_tokenizer import PRE_TOKENIZERS
from modelwright.formats.huggingface import load_config, load_model, load_tensors
from modelwright.formats.llama_cpp import LlamaCppReader
from modelwright.model.rope import LinearRope
from modelwright.tokenizer.bpe import BPETokenizer

MakeModel = Callable[..., Path]
needs_llama_cpp = pytest.mark.skipif(
    not importlib.util.find_spec("llama_cpp"), reason="llama-cpp-python is not installed"
)
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"head_dim": 32, "tie_word_embeddings": False, "rope_theta": 5e5}),
    "llama 3": ("llama", {"head_dim": 32, "rope_scaling": LLAMA3}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "stretched": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "qwen2": ("qwen2", {"rope_scaling": YARN}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3 moe": (
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "gemma": ("gemma", {"head_dim": 32, "num_key_value_heads": 1}),
}


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_tensors(folder / "model.safetensors")


def made(make: MakeModel, family: str, out: Path, kind: Any = "f32") -> tuple[Path, Path]:
    """(model folder, GGUF file)."""
    architecture, changes = FAMILIES[family]
    folder = make(architecture, **changes)
    write_gguf(folder, out / "model.gguf", kind)
    return folder, out / "model.gguf"


def written(out: Path, settings: dict[str, Any], weights: dict[str, Any]) -> None:
    """Write a file of these settings and fp32 weights."""
    writer = GGUFWriter(str(out), "unused")
    writer.kv_data[0].clear()
    for name, value in settings.items():
        kind = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, list: writer.add_array}
        kind.get(type(value), writer.add_float32)(name, value)
    for name, weight in weights.items():
        writer.add_tensor(name, weight)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_we_wrote_comes_back(family: str, tiny_model: MakeModel, tmp_path: Path) -> None:
    folder, file = made(tiny_model, family, tmp_path)
    config = import_gguf(file, tmp_path / "back")
    assert config == load_config(tmp_path / "back") == load_config(folder)
    ours, back = (
        weights_of(folder),
        weights_of(tmp_path / "back"),
    )
    assert ours.keys() == back.keys()
    for name, weight in ours.items():
        if family == "gemma" and name.endswith("norm.weight"):
            torch.testing.assert_close(
                back[name], weight, rtol=0, atol=2**-23
            )  # one was added, and taken off
        else:
            assert torch.equal(back[name], weight), name
    load_model(tmp_path / "back")
    original, again = BPETokenizer.load(folder), BPETokenizer.load(tmp_path / "back")
    assert all(again.encode(text) == original.encode(text) for text in TORTURE)
    assert again.special_ids == original.special_ids and again.chat_template == original.chat_template
    special = json.loads((tmp_path / "back" / "config.json").read_text())
    assert special["eos_token_id"] == original.end_of_turn_id


@needs_llama_cpp
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_the_same(family: str, tiny_model: MakeModel, tmp_path: Path) -> None:
    _, file = made(tiny_model, family, tmp_path)
    import_gguf(file, tmp_path / "back")
    judge = LlamaCppReader(file)
    ids = BPETokenizer.load(tmp_path / "back").encode("".join(TORTURE))[:120]
    with torch.no_grad():
        ours = load_model(tmp_path / "back")(torch.tensor([ids])).logits()[0]
    expected = judge.logits(ids)
    tolerance = 1e-3 if family == "gemma" else 1e-4  # its GELU comes from a table in fp16
    assert (ours - expected).abs().max() < tolerance * expected.abs().max()


@needs_llama_cpp
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_text_is_cut_as_llama_cpp_cuts_it_under_that_name(
    name: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    _, file = made(tiny_model, "llama", tmp_path)
    changed(file, tmp_path / "other.gguf", **{"tokenizer.ggml.pre": name})
    import_gguf(tmp_path / "other.gguf", tmp_path / "back")
    ours, judge = BPETokenizer.load(tmp_path / "back"), LlamaCppReader(tmp_path / "other.gguf")
    digits = ["1 22 333 4444 55555", "a1b2 c33", "٣٤٥ ½ x²", "don't 'S IT'LL"]
    for text in (*TORTURE, *digits):
        assert ours.encode(text) == judge.tokenize(text), text


@needs_llama_cpp
@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_a_text_begins_with_bos_where_it_does_in_llama_cpp(
    name: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    """Where a file does not say it, the pre-tokenizer's name does."""
    _, file = made(tiny_model, "llama", tmp_path)
    source = GGUFFile(file)
    silent = {key: value for key, value in source.settings.items() if not key.endswith("add_bos_token")}
    weights = {name: source.tensor(name, torch.float32).numpy() for name in source.tensors}
    written(tmp_path / "other.gguf", silent | {"tokenizer.ggml.pre": name}, weights)
    import_gguf(tmp_path / "other.gguf", tmp_path / "back")
    judge = LlamaCppReader(tmp_path / "other.gguf")
    said = judge._library.llama_vocab_get_add_bos(judge._vocabulary)
    assert (BPETokenizer.load(tmp_path / "back").bos_id is not None) == said


@pytest.fixture
def phi3(tiny_model: MakeModel, tmp_path: Path) -> tuple[Path, Path]:
    """(folder of a Mistral, the GGUF file of the Phi-3 that is equal to it)."""
    folder = tiny_model("mistral", tie_word_embeddings=False)
    write_gguf(folder, tmp_path / "mistral.gguf", "f32")
    weights = {gguf_name(name): weight.numpy() for name, weight in weights_of(folder).items()}
    for layer in range(2):
        parts = {"attn_qkv": ("attn_q", "attn_k", "attn_v"), "ffn_up": ("ffn_gate", "ffn_up")}
        for fused, names in parts.items():
            together = [weights.pop(f"blk.{layer}.{name}.weight") for name in names]
            weights[f"blk.{layer}.{fused}.weight"] = np.concatenate(together)
    said = GGUFFile(tmp_path / "mistral.gguf").settings | {"general.architecture": "phi3"}
    renamed = {name.replace("llama.", "phi3."): value for name, value in said.items()}
    written(tmp_path / "phi3.gguf", renamed, weights)
    return folder, tmp_path / "phi3.gguf"


def test_a_phi_3_is_the_mistral_it_is_equal_to(phi3: tuple[Path, Path], tmp_path: Path) -> None:
    import_gguf(phi3[1], tmp_path / "back")
    assert load_config(tmp_path / "back") == load_config(phi3[0])
    ours, back = (
        weights_of(phi3[0]),
        weights_of(tmp_path / "back"),
    )
    assert ours.keys() == back.keys() and all(torch.equal(back[name], ours[name]) for name in ours)


@needs_llama_cpp
def test_llama_cpp_computes_the_same_phi_3(phi3: tuple[Path, Path]) -> None:
    ids = BPETokenizer.load(phi3[0]).encode("".join(TORTURE))[:60]
    with torch.no_grad():
        ours = load_model(phi3[0])(torch.tensor([ids])).logits()[0]
    assert (ours - LlamaCppReader(phi3[1]).logits(ids)).abs().max() < 1e-4 * ours.abs().max()


@pytest.mark.parametrize(("kind", "dtype"), [("f16", torch.float16), ("q8_0", torch.float16)])
def test_quantized_weights_are_what_the_package_says(
    kind: Any, dtype: torch.dtype, tiny_model: MakeModel, tmp_path: Path
) -> None:
    folder, file = made(tiny_model, "qwen3", tmp_path, kind)
    import_gguf(file, tmp_path / "back")
    ours, back = (
        weights_of(folder),
        weights_of(tmp_path / "back"),
    )
    stored = GGMLQuantizationType[kind.upper()]
    for name, weight in ours.items():
        assert back[name].dtype == (dtype if weight.dim() > 1 else torch.float32)
        if weight.dim() > 1:
            expected = quants.dequantize(quants.quantize(weight.numpy(), stored), stored)
            torch.testing.assert_close(back[name].float(), torch.from_numpy(expected), rtol=2**-11, atol=1e-7)


QUANTIZED = ["Q4_0", "Q5_1", "BF16", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_XS"]


@needs_llama_cpp
@pytest.mark.parametrize("kind", QUANTIZED)
def test_what_llama_cpp_quantized_is_read_as_it_reads_it(
    kind: str, tiny_model: MakeModel, tmp_path: Path
) -> None:
    """llama.cpp's own way back to fp32 is the judge, weight by weight."""
    import llama_cpp

    def converted(source: str, out: str, ftype: str) -> None:
        wanted = llama_cpp.llama_model_quantize_default_params()
        wanted.ftype, wanted.allow_requantize = getattr(llama_cpp, f"LLAMA_FTYPE_{ftype}"), True
        paths = (str(tmp_path / name).encode() for name in (source, out))
        assert llama_cpp.llama_model_quantize(*paths, wanted) == 0

    folder = tiny_model("llama", hidden_size=256, intermediate_size=512, head_dim=64)
    write_gguf(folder, tmp_path / "f32.gguf", "f32")
    converted("f32.gguf", "small.gguf", f"MOSTLY_{kind}")
    converted("small.gguf", "wide.gguf", "ALL_F32")
    for name in ("small", "wide"):
        import_gguf(tmp_path / f"{name}.gguf", tmp_path / name)
    ours, judge = (
        weights_of(tmp_path / "small"),
        weights_of(tmp_path / "wide"),
    )
    original = weights_of(folder)
    for name, weight in judge.items():
        torch.testing.assert_close(ours[name].float(), weight, rtol=2**-10, atol=1e-6)
        assert (weight - original[name]).norm() < 0.5 * original[name].norm()


def sentencepiece_file(path: Path) -> Any:
    """A GGUF file as converters write it of a Llama 2, with a vocabulary learned here; returns its judge."""
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox", "jumps over the lazy dog", "Ünï cödé 東京"] * 30),
        model_writer=written, model_type="bpe", vocab_size=330, byte_fallback=True, minloglevel=2,
        normalization_rule_name="identity", remove_extra_whitespaces=False, hard_vocab_limit=False,
    )  # fmt: skip
    judge = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    count = judge.get_piece_size()
    kinds = [
        2 if judge.is_unknown(n) else 3 if judge.is_control(n) else 6 if judge.is_byte(n) else 1
        for n in range(count)
    ]
    writer = GGUFWriter(str(path), "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([judge.id_to_piece(n) for n in range(count)])
    writer.add_token_scores([judge.get_score(n) for n in range(count)])
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    sizes = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 32}
    for name, size in sizes.items():
        writer.add_uint32(f"llama.{name}", size)
    writer.add_head_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    shapes = {
        "token_embd": (count, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,),
        "blk.0.attn_q": (32, 32), "blk.0.attn_k": (32, 32), "blk.0.attn_v": (32, 32),
        "blk.0.attn_output": (32, 32), "blk.0.ffn_gate": (32, 32), "blk.0.ffn_up": (32, 32),
        "blk.0.ffn_down": (32, 32),
    }  # fmt: skip
    generator = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", generator.normal(size=shape).astype(np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return judge


def test_a_sentencepiece_vocabulary_cuts_as_its_own_library(tmp_path: Path) -> None:
    judge = sentencepiece_file(tmp_path / "m.gguf")
    import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    backend = __import__("tokenizers").Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    for text in ("the quick brown fox", " two  spaces", "Ünï 東京 ჱ 👍", "dog\nfox\t!"):
        ids = backend.encode(text).ids
        assert ids == [1, *judge.encode(text)]  # a Llama 2 begins with BOS unless the file says otherwise
        assert backend.decode(ids) == text
    written = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert (written["bos_token"], written["add_bos_token"], written["unk_token"]) == ("<s>", True, "<unk>")
    assert load_model(tmp_path / "back").config.architecture == "llama"


# --- files that are not what they should be


@pytest.fixture(scope="module")
def small(tiny_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("small")
    return made(tiny_model, "qwen3", out, "q8_0")[1].read_bytes()


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbled_headers_are_errors_that_say_so(small: bytes, tmp_path: Path, data: st.DataObject) -> None:
    """Whatever a byte becomes, and wherever the file ends: it is read, or refused in words."""
    garbled = bytearray(small)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, 400) | st.integers(0, 12_000))
        garbled[min(place, len(garbled) - 1)] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(garbled)) | st.integers(0, len(garbled)))
    (tmp_path / "m.gguf").write_bytes(garbled[:end])
    try:
        import_gguf(tmp_path / "m.gguf", tmp_path / "back")
    except UserError as error:
        assert str(error)


def header(*settings: bytes, tensors: int = 0, count: int | None = None) -> bytes:
    settings_count = len(settings) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, settings_count) + b"".join(settings)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


ABSURD = {
    "no gguf": (b"GARB" + bytes(40), "letters GGUF"),
    "empty": (b"", "cannot be read"),
    "old": (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
    "settings without end": (header(count=1 << 60), "more was announced"),
    "tensors without end": (header(tensors=1 << 60), "more was announced"),
    "a long text": (header(struct.pack("<Q", 1 << 50)), "a text has"),
    "a long array": (header(text("a") + struct.pack("<IIQ", 9, 8, 1 << 61)), "an array has"),
    "arrays in arrays": (header(text("a") + struct.pack("<IIQ", 9, 9, 1)), "items of type 9"),
    "an unknown type": (header(text("a") + struct.pack("<I", 77)), "type 77"),
    "twice": (header(*[text("a") + struct.pack("<IB", 0, 1)] * 2), "stands twice"),
    "a huge tensor": (
        header(text("w") + struct.pack("<IQQIQ", 2, 1 << 40, 1 << 40, 0, 0), tensors=1, count=0),
        "w ends at byte",
    ),
    "seven sides": (header(text("w") + struct.pack("<I", 7), tensors=1, count=0), "7 sides"),
    "half a block": (
        header(text("w") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(99), tensors=1, count=0),
        "blocks of 32",
    ),
    "a type of tomorrow": (
        header(text("w") + struct.pack("<IQIQ", 1, 32, 999, 0) + bytes(99), tensors=1, count=0),
        "type 999",
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_absurd_sizes_are_damage(case: str, tmp_path: Path) -> None:
    content, words = ABSURD[case]
    (tmp_path / "m.gguf").write_bytes(content)
    with pytest.raises(DamagedFile, match=words):
        GGUFFile(tmp_path / "m.gguf")


def changed(file: Path, out: Path, without: str = "", **settings: Any) -> Path:
    """The file with settings of other values and types, and without one of its tensors."""
    source = GGUFFile(file)
    kept = source.tensors.keys() - {without}
    written(out, source.settings | settings, {n: source.tensor(n, torch.float32).numpy() for n in kept})
    return out


COLON: dict[str, Any] = {
    "tokenizer.ggml.tokens": ["a", "b", "ab", "a:b"], "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.ggml.merges": ["a b"], "tokenizer.ggml.bos_token_id": 3, "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.add_bos_token": True,
}  # fmt: skip
"""A tokenizer whose beginning of a text holds the sign that parts token and type in the library."""
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"general.architecture": "lama"}, "lama of GGUF is not supported. Did you mean 'llama'"),
    "parts": ({"split.count": 3}, "one of 3 parts"),
    "experts": ({"llama.expert_count": 8}, "llama.expert_count: that changes"),
    "capped": ({"llama.final_logit_softcapping": 30.0}, "final_logit_softcapping"),
    "a part of the head": ({"llama.rope.dimension_count": 16}, "rope.dimension_count 16"),
    "longrope": ({"llama.rope.scaling.type": "longrope"}, "'longrope'"),
    "both ways": ({"llama.attention.causal": False}, r"llama\.attention\.causal: that changes"),
    "a scale of one": ({"llama.attention.scale": 1.0}, r"llama\.attention\.scale: that changes"),
    "an old factor": ({"llama.rope.scale_linear": 4.0}, r"llama\.rope\.scale_linear: that changes"),
    "a factor of attention": ({"llama.rope.scaling.attn_factor": 2.0}, "'none' .*'attn_factor': 2.0"),
    "tokenizer": ({"tokenizer.ggml.model": "bert"}, "kind 'bert'"),
    "pattern": ({"tokenizer.ggml.pre": "tekken"}, "pattern 'tekken', which is not known"),
    "no pattern": ({"tokenizer.ggml.pre": "default"}, "pattern 'default'"),
    "a role": ({"tokenizer.ggml.eos_token_id": 5_000}, "expected 0 to"),
    "a type": ({"llama.block_count": "two"}, "says 'two' of llama.block_count: expected int"),
    "heads": ({"llama.attention.head_count": 0}, "greater than 0"),
    "layers": ({"llama.block_count": 3}, "says 3 layers, and holds 2"),
    "sizes": ({"llama.attention.head_count": 2}, "its settings imply"),
    "no number": ({"llama.rope.freq_base": float("inf")}, "finite number"),
    "merges": ({"tokenizer.ggml.merges": ["a", "b"]}, "not all of two tokens"),
    "a beginning": (COLON, "no text can begin with the token 'a:b'"),
    "strange merges": ({"tokenizer.ggml.merges": ["no such"]}, "do not belong together"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_ours_is_refused_by_name(case: str, tiny_model: MakeModel, tmp_path: Path) -> None:
    _, file = made(tiny_model, "llama", tmp_path)
    settings, words = REFUSED[case]
    with pytest.raises(UserError, match=words):
        import_gguf(changed(file, tmp_path / "changed.gguf", **settings), tmp_path / "back")


def test_settings_that_change_nothing_are_no_reason_to_refuse(tiny_model: MakeModel, tmp_path: Path) -> None:
    folder, file = made(tiny_model, "llama", tmp_path)
    neutral: dict[str, Any] = {
        "llama.attention.causal": True, "llama.use_parallel_residual": False, "llama.logit_scale": 1.0,
        "llama.attention.scale": 0.0, "llama.rope.scaling.attn_factor": 1.0, "llama.rope.scaling.factor": 0.0,
    }  # fmt: skip
    changed(file, tmp_path / "neutral.gguf", **neutral)
    assert import_gguf(tmp_path / "neutral.gguf", tmp_path / "back") == load_config(folder)


@needs_llama_cpp
def test_a_factor_alone_stretches_as_llama_cpp_does(tiny_model: MakeModel, tmp_path: Path) -> None:
    _, file = made(tiny_model, "llama", tmp_path)
    changed(file, tmp_path / "factor.gguf", **{"llama.rope.scaling.factor": 4.0})
    config = import_gguf(tmp_path / "factor.gguf", tmp_path / "back")
    assert config.rope_scaling == LinearRope(rope_type="linear", factor=4.0)
    ids = BPETokenizer.load(tmp_path / "back").encode("".join(TORTURE))[:60]
    with torch.no_grad():
        ours = load_model(tmp_path / "back")(torch.tensor([ids])).logits()[0]
    expected = LlamaCppReader(tmp_path / "factor.gguf").logits(ids)
    assert (ours - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_file_without_a_tensor_is_not_whole(tiny_model: MakeModel, tmp_path: Path) -> None:
    _, file = made(tiny_model, "llama", tmp_path)
    with pytest.raises(DamagedFile, match=r"no token_embd\.weight"):
        import_gguf(changed(file, tmp_path / "a.gguf", without="token_embd.weight"), tmp_path / "back")
    with pytest.raises(DamagedFile, match=r"lacks 1 of its weights: .*layers\.1\.self_attn\.q_proj"):
        import_gguf(changed(file, tmp_path / "b.gguf", without="blk.1.attn_q.weight"), tmp_path / "back")

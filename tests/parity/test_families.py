"""Every family of models that can be imported, against transformers: what transformers itself saved, in one
file and in several, with the settings in the spelling of both of its versions, gives equal logits here; and
what we save of it, equal logits there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.parity.test_transformers import max_difference, perturb

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.formats.config_json import read_config
from modelwright.formats.huggingface import load_config, load_model, save_model
from modelwright.formats.locate import resolve_model
from modelwright.model.transformer import Transformer

transformers = pytest.importorskip("transformers", reason="the independent reader is not installed")

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": None,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}
THETA = {"rope_type": "default", "rope_theta": 1e6}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("Llama", {"num_key_value_heads": 4}),
    "llama 3.2": ("Llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": True, "head_dim": 16}),
    "llama, stretched": ("Llama", {"rope_parameters": LINEAR}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "mistral 0.1": ("Mistral", {"sliding_window": 7}),
    "mistral 0.3": ("Mistral", {"sliding_window": None, "rope_parameters": THETA, "head_dim": 16}),
    "qwen2.5": ("Qwen2", {"rope_parameters": THETA, "tie_word_embeddings": True}),
    "qwen2.5, long": ("Qwen2", {"rope_parameters": YARN}),
    "yarn as it can be": (
        "Llama",
        {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 0.9, "beta_fast": 8, "truncate": False}},
    ),
    "yarn with its factor": ("Llama", {"rope_parameters": YARN | {"attention_factor": 1.3, "beta_slow": 2}}),
    "qwen3": ("Qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3 with biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "qwen3 moe": ("Qwen3Moe", {"head_dim": 16, "norm_topk_prob": True, **EXPERTS}),
    "phi-3": ("Phi3", {"rms_norm_eps": 1e-5}),
    "phi-3, windowed": ("Phi3", {"sliding_window": 9, "num_key_value_heads": 4}),
    "gemma": ("Gemma", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma, untied": ("Gemma", {"head_dim": 16, "tie_word_embeddings": False}),
}
IDS = torch.randint(0, 96, (2, 70), generator=torch.Generator().manual_seed(1))


def theirs(family: str, **changes: Any) -> Any:
    kind, stated = FAMILIES[family]
    torch.manual_seed(5)
    config = getattr(transformers, f"{kind}Config")(**SIZES | stated | changes)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).float().eval()
    perturb(model)
    return model


def as_transformers_4_wrote_it(file: Path) -> None:
    """Rotations and the format as version 4 spells them."""
    raw = json.loads(file.read_text())
    rope = raw.pop("rope_parameters")
    raw["rope_theta"] = rope.pop("rope_theta")
    rope.pop("partial_rotary_factor", None)
    kind = rope.pop("rope_type")
    raw["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
    raw["torch_dtype"] = raw.pop("dtype")
    file.write_text(json.dumps(raw))


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@torch.no_grad()
def assert_equal(model: Transformer, judge: Any, tolerance: float = 1e-5) -> None:
    expected = judge(IDS).logits.float()
    assert max_difference(expected, model(IDS).logits()) < tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("family", FAMILIES)
def test_their_folders_in_both_spellings_and_ours_read_by_them(family: str, tmp_path: Path) -> None:
    judge = theirs(family)
    judge.save_pretrained(tmp_path / "whole")
    assert_equal(load_model(tmp_path / "whole"), judge)
    judge.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    as_transformers_4_wrote_it(tmp_path / "sharded" / "config.json")
    model = load_model(tmp_path / "sharded")
    assert_equal(model, judge)
    save_model(tmp_path / "ours", model)
    assert load_config(tmp_path / "ours") == model.config
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert_equal(model, again)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bf16_both_are_off_alike(family: str, tmp_path: Path) -> None:
    """The two round in other places, so what they share is how far they are from fp32. Ours may be off by
    twice as much as theirs."""
    judge = theirs(family)
    judge.save_pretrained(tmp_path)
    model = load_model(tmp_path, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        exact = judge(IDS).logits
        rounded = judge.to(torch.bfloat16)(IDS).logits.float()
        ours = model(IDS).logits()
    error, allowed = (ours - exact).pow(2).mean().sqrt(), (rounded - exact).pow(2).mean().sqrt()
    assert 0 < error < 2 * allowed


@pytest.mark.parametrize("family", ["llama with biases", "qwen2.5, long", "gemma", "phi-3"])
def test_gradients_agree(family: str, tmp_path: Path) -> None:
    """What is new in these families is differentiated right."""
    judge = theirs(family)
    judge.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    judge(IDS, labels=IDS).loss.backward()
    logits = model(IDS).logits()[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), IDS[:, 1:].flatten()).backward()
    their_gradients = {name: parameter.grad for name, parameter in judge.named_parameters()}
    for name, parameter in model.named_parameters():
        if name in their_gradients:
            torch.testing.assert_close(parameter.grad, their_gradients[name], rtol=2e-4, atol=1e-6)
    fused = [name for name in their_gradients if "qkv_proj" in name]
    for name in fused:
        parts = [model.get_parameter(name.replace("qkv", part)).grad for part in "qkv"]
        torch.testing.assert_close(torch.cat(parts), their_gradients[name], rtol=2e-4, atol=1e-6)


REFUSED = {
    "gemma2": ({"architectures": ["Gemma2ForCausalLM"]}, "Gemma2ForCausalLM is not supported: it has capped"),
    "near": ({"architectures": ["LlamaForCasualLM"]}, "did you mean LlamaForCausalLM"),
    "unknown": ({"architectures": ["XyzModel"]}, "not known here. Supported: GemmaForCausalLM, Llama"),
    "none": ({"architectures": None}, r"architecture \(none\)"),
    "dynamic": ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "'dynamic'.*texts of all lengths"),
    "longrope": ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "'longrope'"),
    "layers": ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "the same for all layers"),
    "partial": ({"partial_rotary_factor": 0.75}, "partial_rotary_factor: 0.75"),
    "partial 5": ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor: 0.5"),
    "caps": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping: 30.0: that changes"),
    "activation": ({"hidden_act": "relu2"}, "activation relu2 is not supported, expected silu"),
    "factor": ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "greater than or equal to 1"),
    "unheard of": ({"rope_scaling": {"type": "linear", "factor": 2.0, "fator": 2}}, "unknown setting"),
    "order": ({"rope_scaling": LLAMA3 | {"low_freq_factor": 9.0}}, "must be below high_freq_factor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_computed_otherwise_is_refused_by_name(case: str, tmp_path: Path) -> None:
    theirs("llama 2").save_pretrained(tmp_path)
    changes, words = REFUSED[case]
    change_config(tmp_path, **changes)
    with pytest.raises((UserError, ConfigError), match=words):
        load_config(tmp_path)


def test_what_changes_no_logits_is_not_refused_and_stays_said(tiny_tokenizer: Path, tmp_path: Path) -> None:
    judge = theirs("llama 2")
    judge.save_pretrained(tmp_path / "theirs")
    said = {"pretraining_tp": 1, "resid_pdrop": 0.1, "made_up": {"a": [1]}, "initializer_range": 0.5}
    gone = {"auto_map": {"AutoModel": "code.Model"}, "_name_or_path": "/home/me"}
    change_config(tmp_path / "theirs", **said, **gone, final_logit_softcapping=None)
    old = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(2)}
    weights = load_file(tmp_path / "theirs" / "model.safetensors")
    save_file(weights | old, tmp_path / "theirs" / "model.safetensors")
    model = load_model(tmp_path / "theirs")
    assert_equal(model, judge)
    shutil.copytree(tiny_tokenizer, tmp_path / "theirs", dirs_exist_ok=True)
    save_model(tmp_path / "ours", model, tmp_path / "theirs")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {name: written.get(name) for name in said} == said
    assert not written.keys() & gone.keys()


JUNK = st.none() | st.booleans() | st.integers(-2, 10**18) | st.floats() | st.text(max_size=5) | st.just([])
JUNK |= st.dictionaries(st.sampled_from(["rope_type", "type", "factor", "rope_theta", "a"]), JUNK, max_size=3)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_settings_of_any_kind_are_read_or_refused_in_words(data: st.DataObject) -> None:
    kind, changes = FAMILIES[data.draw(st.sampled_from(sorted(FAMILIES)))]
    raw = getattr(transformers, f"{kind}Config")(**SIZES | changes).to_dict()
    raw |= {"architectures": [f"{kind}ForCausalLM"]}
    for name in data.draw(st.lists(st.sampled_from(sorted(raw)), min_size=1, max_size=3)):
        raw[name] = data.draw(JUNK)
    try:
        read_config(raw, Path("config.json"))
    except UserError as error:
        assert "config.json" in str(error)


def test_a_configuration_of_several_models_is_refused_by_its_name() -> None:
    raw = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": {"hidden_size": 8}}
    with pytest.raises(UserError, match="it has images"):
        read_config(raw, Path("config.json"))


def test_fused_matrices_of_other_sizes_are_damage(tmp_path: Path) -> None:
    theirs("phi-3").save_pretrained(tmp_path)
    change_config(tmp_path, num_key_value_heads=1)
    with pytest.raises(DamagedFile, match=r"qkv_proj.weight has shape \(64, 32\).* 48 rows"):
        load_model(tmp_path)


def test_a_saved_phi_3_says_that_it_is_a_mistral(tmp_path: Path) -> None:
    theirs("phi-3").save_pretrained(tmp_path / "theirs")
    model = load_model(tmp_path / "theirs")
    save_model(tmp_path / "ours", model)
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert written["architectures"] == ["MistralForCausalLM"]


def test_pickled_weights_are_refused_with_what_to_do(tmp_path: Path) -> None:
    theirs("llama 2").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle.* convert it by AutoModel"):
        load_model(tmp_path)
    with pytest.raises(UserError, match=r"holds no model.*pytorch_model.bin is a pickle"):
        resolve_model(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"weight_map": 3}', '{"weight_map": {"a": 1}}', "{}"])
def test_an_index_that_names_no_files_is_damage(content: str, tmp_path: Path) -> None:
    theirs("llama 2").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00001.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(DamagedFile, match="names no files"):
        load_model(tmp_path)

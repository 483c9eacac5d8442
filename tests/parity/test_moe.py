"""Our mixture of experts against transformers' Qwen3Moe: same weights, same logits, in both directions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.model.mixtures import config
from tests.parity.test_transformers import max_difference, perturb

from modelwright.compression.quantize import quantize
from modelwright.formats.huggingface import load_model, load_tensors, save_model
from modelwright.model.init import initialize
from modelwright.model.quantized import Scheme
from modelwright.model.transformer import Transformer

SHAPES = [
    {"tie_word_embeddings": True},
    {"tie_word_embeddings": False, "norm_topk_prob": False, "num_experts_per_tok": 3},
    {"num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": (1,)},
]


def ids() -> torch.Tensor:
    return torch.randint(0, 96, (2, 17), generator=torch.Generator().manual_seed(1))


def ours(**shape: object) -> Transformer:
    model = Transformer(config(**shape))
    initialize(model, 3)
    perturb(model)
    return model


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_reads_our_folder(shape: dict[str, object], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = ours(**shape)
    save_model(tmp_path, model)
    theirs, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    with torch.no_grad():
        assert max_difference(theirs(ids()).logits, model(ids()).logits()) < 1e-5


@pytest.mark.parametrize("shape", SHAPES)
def test_we_read_their_folder(shape: dict[str, object], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = config(**shape).model_dump(mode="json", exclude={"architecture"})
    theirs = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**settings)).float().eval()
    perturb(theirs)
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path)
    assert model.config == config(**shape)
    with torch.no_grad():
        assert max_difference(theirs(ids()).logits, model(ids()).logits()) < 1e-5


def test_gradients_agree(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = ours()
    save_model(tmp_path, model)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    theirs(ids(), labels=ids()).loss.backward()
    logits = model(ids()).logits()[:, :-1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids()[:, 1:].flatten()).backward()
    found = dict(model.named_parameters())
    for name, parameter in theirs.named_parameters():
        if name.endswith("gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            gate, up = (found[f"{stem}{part}.weight"].grad for part in ("gate_proj", "up_proj"))
            gradient = torch.cat((gate, up), dim=1)
        else:
            held = found.get(name, found.get(f"{name}.weight"))
            assert held is not None, name
            gradient = held.grad
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


STORED = {
    8: {"weight": (torch.int8, (64, 64)), "weight_scale": (torch.float32, (64, 1))},
    4: {"weight_packed": (torch.int32, (64, 8)), "weight_scale": (torch.bfloat16, (64, 2))},
}
"""bits -> what is stored of an expert of 64 x 64."""


@pytest.mark.parametrize(("scheme", "agreeing"), [(Scheme(bits=8), 0.9), (Scheme(bits=4), 0.4)])
def test_quantized_experts_survive_the_disk_and_stay_close(
    tiny_model: Callable[..., Path], tmp_path: Path, scheme: Scheme, agreeing: float
) -> None:
    folder = tiny_model("qwen3_moe", num_experts=5, num_experts_per_tok=2, moe_intermediate_size=64)
    original = load_model(folder)
    made = quantize(original, scheme)
    save_model(tmp_path, made, folder)
    stored = load_tensors(tmp_path / "model.safetensors")
    for kind, (dtype, shape) in STORED[scheme.bits].items():
        tensor = stored[f"model.layers.1.mlp.experts.4.up_proj.{kind}"]
        assert (tensor.dtype, tuple(tensor.shape)) == (dtype, shape)
    assert stored["model.layers.1.mlp.gate.weight"].is_floating_point()
    with torch.no_grad():
        before, held, read = (m(ids()).logits() for m in (original, made, load_model(tmp_path)))
    torch.testing.assert_close(held, read, atol=1e-3, rtol=1e-3)
    agreement = (before.argmax(-1) == read.argmax(-1)).float().mean()
    assert agreement > agreeing

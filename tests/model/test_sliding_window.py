"""Attention in a window: which positions are seen, wherever masks are made, and which models have one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from modelwright.base.errors import UserError
from modelwright.base.files import read_json, write_json
from modelwright.base.schema import Batch
from modelwright.formats.gguf import write_gguf
from modelwright.formats.huggingface import load_config, load_model
from modelwright.model.attention import segment_mask
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer

WINDOW = 5
IDS = torch.randint(0, 90, (2, 24), generator=torch.Generator().manual_seed(5))


def test_a_position_sees_itself_and_what_is_less_than_a_window_away() -> None:
    segments = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    seen = segment_mask(segments, 3)[0, 0]
    for i in range(8):
        for j in range(8):
            assert bool(seen[i, j]) == (segments[0, i] == segments[0, j] and i - 3 < j <= i)


@pytest.fixture
def model(tiny_model: Callable[..., Path]) -> Transformer:
    return load_model(tiny_model("mistral", sliding_window=WINDOW))


@torch.inference_mode()
def test_what_is_further_back_than_all_windows_is_not_known(model: Transformer) -> None:
    """Two layers of windows of 5 reach 8 positions back, and no further."""
    changed = IDS.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 90
    same = (model(IDS).logits() == model(changed).logits()).all(-1)[0]
    assert same.tolist() == [True] * 3 + [False] * 9 + [True] * 12


def test_packed_documents_have_windows_of_their_own(model: Transformer) -> None:
    """Forward and backward as if each document were alone, whatever computes it."""
    lengths = (10, 14)
    segments = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths))[None]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    together = model.on_batch(Batch(ids=IDS[:1], targets=IDS[:1], segments=segments, positions=positions))
    alone = [model(part).logits() for part in IDS[:1].split(lengths, dim=1)]
    torch.testing.assert_close(together.logits(), torch.cat(alone, dim=1), atol=1e-4, rtol=1e-4)
    upstream = torch.randn(together.logits().shape, generator=torch.Generator().manual_seed(1))
    weight = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    one = torch.autograd.grad((together.logits() * upstream).sum(), weight)[0]
    other = torch.autograd.grad((torch.cat(alone, dim=1) * upstream).sum(), weight)[0]
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_llama_has_no_window(model: Transformer) -> None:
    with pytest.raises(ValidationError, match="expected mistral"):
        ModelConfig.model_validate({**model.config.model_dump(), "architecture": "llama"})


QWEN = {"use_sliding_window": True, "sliding_window": 7}


@pytest.mark.parametrize(
    ("architecture", "stated", "window"),
    [
        ("mistral", {"sliding_window": 7}, 7),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", QWEN | {"max_window_layers": 0}, 7),
        ("qwen2", QWEN | {"use_sliding_window": False, "max_window_layers": 0}, None),
        ("qwen3", QWEN | {"max_window_layers": 2}, None),
        ("qwen3", QWEN | {"layer_types": ["sliding_attention"] * 2}, 7),
        ("qwen3", QWEN, None),  # the window begins at layer 28
        ("llama", {"sliding_window": 7}, None),  # what readers do
    ],
    ids=str,
)
def test_the_window_that_a_folder_states(
    tiny_model: Callable[..., Path], architecture: str, stated: dict[str, object], window: int | None
) -> None:
    folder = tiny_model(architecture)
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **stated})
    assert load_config(folder).sliding_window == window


@pytest.mark.parametrize(
    "stated", [{"max_window_layers": 1}, {"layer_types": ["full_attention", "sliding_attention"]}], ids=str
)
def test_layers_that_differ_are_refused(tiny_model: Callable[..., Path], stated: dict[str, object]) -> None:
    folder = tiny_model("qwen3")
    write_json(folder / "config.json", {**read_json(folder / "config.json"), **QWEN, **stated})
    with pytest.raises(UserError, match="only some layers"):
        load_config(folder)


def test_llama_cpp_gets_no_model_whose_window_it_would_ignore(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="sliding_window"):
        write_gguf(tiny_model("mistral", sliding_window=WINDOW), tmp_path / "m.gguf", "f16")
    write_gguf(tiny_model("mistral", sliding_window=128), tmp_path / "m.gguf", "f16")  # the whole context

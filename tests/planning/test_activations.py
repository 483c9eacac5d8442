"""The formula for activations holds against what autograd keeps of our network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from modelwright.base.schema import Batch as Tokens
from modelwright.kernels import native, tiles
from modelwright.model.config import ModelConfig
from modelwright.model.transformer import Transformer
from modelwright.planning.activations import Batch, kept_bytes
from modelwright.planning.shape import Shape, known_shape
from modelwright.training.batches import next_token_batch


def network(**changes: Any) -> ModelConfig:
    sizes = {"vocab_size": 300, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}  # fmt: skip
    return ModelConfig(**(sizes | changes))


def saved_bytes(config: ModelConfig, rows: int, length: int, dtype: torch.dtype, masked: bool) -> int:
    """Bytes of all storages that the forward pass keeps, weights themselves left out."""
    model = Transformer(config, dtype)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = (
            tensor.untyped_storage()
        )  # held, so no address comes twice
        return tensor

    ids = np.random.default_rng(0).integers(1, config.vocab_size, (rows, length + 1))
    batch = next_token_batch(list(ids), 0)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model.on_batch(batch if masked else Tokens(ids=batch.ids, targets=batch.targets))
    assert output.hidden.requires_grad
    return sum(storage.nbytes() for address, storage in kept.items() if address not in weights)


@pytest.mark.parametrize("architecture", ["qwen3", "llama", "qwen2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("length", "masked"), [(64, True), (640, True), (64, False)])
def test_what_autograd_keeps(architecture: Any, dtype: torch.dtype, length: int, masked: bool) -> None:
    if native.library(dtype) is None:
        pytest.skip("no compiled kernels here")
    config = network(architecture=architecture)
    expected = saved_bytes(config, 2, length, dtype, masked)
    batch = Batch(rows=2, context=length, bytes=dtype.itemsize, masked=masked)
    assert kept_bytes(Shape.of(config), batch) == pytest.approx(expected, rel=0.01)


@pytest.mark.skipif(tiles.library() is None, reason="this processor has neither AVX512-BF16 nor AMX")
@pytest.mark.parametrize(("length", "masked"), [(64, True), (640, True), (64, False)])
def test_what_autograd_keeps_of_tiled_attention(length: int, masked: bool) -> None:
    config = network(architecture="llama", head_dim=32)
    expected = saved_bytes(config, 2, length, torch.bfloat16, masked)
    batch = Batch(rows=2, context=length, masked=masked, tiled_attention=True)
    assert kept_bytes(Shape.of(config), batch) == pytest.approx(expected, rel=0.01)


def test_casts_are_kept_where_they_are_not_made_again() -> None:
    shape = known_shape("qwen3-0.6b")
    again, once = Batch(rows=1, context=64), Batch(rows=1, context=64, recasts=False)
    assert kept_bytes(shape, once) - kept_bytes(shape, again) == 2 * shape.block_matrices


SHAPE = known_shape("qwen3-0.6b")


@given(st.integers(1, 64), st.integers(1, 4096), st.sampled_from([2, 4]), st.booleans())
@settings(max_examples=60)
def test_more_is_never_less(rows: int, context: int, size: int, masked: bool) -> None:
    one = Batch(rows=rows, context=context, bytes=size, masked=masked, explicit_attention=False)
    more = Batch(rows=rows + 1, context=context, bytes=size, masked=masked, explicit_attention=False)
    longer = Batch(rows=rows, context=context + 1, bytes=size, masked=masked, explicit_attention=False)
    assert kept_bytes(SHAPE, one) < kept_bytes(SHAPE, more)
    assert kept_bytes(SHAPE, one) < kept_bytes(SHAPE, longer)


def test_checkpointing_keeps_less_in_this_order() -> None:
    batch = Batch(rows=8, context=2048)
    full, selective, none = (kept_bytes(SHAPE, batch, kind) for kind in ("full", "selective", "none"))
    assert full < selective < none
    assert kept_bytes(SHAPE, batch, "full", every=2) > full

"""Experts' names: stacks here, single matrices in folders, and a third spelling elsewhere."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import DamagedFile
from modelwright.formats.experts import as_held, as_stored

PREFIX = "model.layers.3.mlp.experts"


def held(experts: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"gate_proj": (experts, 6, 4), "up_proj": (experts, 6, 4), "down_proj": (experts, 4, 6)}
    stacks = {f"{PREFIX}.{name}.weight": torch.randn(s, generator=generator) for name, s in shapes.items()}
    return {"model.norm.weight": torch.ones(4), **stacks, "model.layers.3.mlp.gate.weight": torch.ones(2, 4)}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@given(st.integers(1, 23), st.randoms(use_true_random=False))
@settings(max_examples=25, deadline=None)
def test_there_and_back_in_any_order(experts: int, order) -> None:
    ours = held(experts)
    names = list(as_stored(ours).items())
    order.shuffle(names)
    assert same(as_held(names), ours)


def test_stored_names_are_those_of_qwen3_moe() -> None:
    stored = as_stored(held(2))
    assert f"{PREFIX}.1.gate_proj.weight" in stored and f"{PREFIX}.gate_proj.weight" not in stored
    assert stored[f"{PREFIX}.1.down_proj.weight"].shape == (4, 6)


def test_scales_are_taken_apart_and_put_together_too() -> None:
    ours = held(3) | {f"{PREFIX}.up_proj.weight_scale": torch.rand(3, 6, 1)}
    assert as_stored(ours)[f"{PREFIX}.2.up_proj.weight_scale"].shape == (6, 1)
    assert same(as_held(as_stored(ours).items()), ours)


def test_the_spelling_of_transformers_in_memory_is_read() -> None:
    ours = held(5)
    theirs = {name: tensor for name, tensor in ours.items() if ".experts." not in name}
    gate, up = ours[f"{PREFIX}.gate_proj.weight"], ours[f"{PREFIX}.up_proj.weight"]
    theirs[f"{PREFIX}.gate_up_proj"] = torch.cat((gate, up), dim=1)
    theirs[f"{PREFIX}.down_proj"] = ours[f"{PREFIX}.down_proj.weight"]
    assert same(as_held(theirs.items()), ours)


def test_dense_names_stay_as_they_are() -> None:
    dense = {"model.layers.0.mlp.gate_proj.weight": torch.ones(2, 2), "lm_head.weight": torch.ones(2, 2)}
    assert same(as_held(dense.items()), dense) and same(as_stored(dense), dense)


def test_experts_that_are_missing_or_differ_are_named() -> None:
    stored = as_stored(held(4))
    del stored[f"{PREFIX}.2.up_proj.weight"]
    with pytest.raises(DamagedFile, match=r"up_proj.weight, experts \[2\] are missing"):
        as_held(stored.items())
    stored = as_stored(held(4)) | {f"{PREFIX}.2.up_proj.weight": torch.ones(5, 4)}
    with pytest.raises(DamagedFile, match="differ in shape"):
        as_held(stored.items())

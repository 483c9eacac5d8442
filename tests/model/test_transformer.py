"""The network's own promises, beyond parity with transformers."""

from __future__ import annotations

import pytest
import torch

from modelwright.base.errors import ConfigError
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.flops import matmul_parameters
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer


def test_the_dial_derives_a_shape_and_every_part_can_be_set():
    small, large = ModelChoice(depth=4).derive(4096), ModelChoice(depth=16).derive(32768)
    assert (small.hidden_size, small.num_attention_heads, small.head_dim) == (256, 4, 64)
    assert (large.hidden_size, large.num_attention_heads, large.head_dim) == (1024, 8, 128)
    chosen = ModelChoice(depth=4, hidden_size=128, intermediate_size=200, num_key_value_heads=1).derive(100)
    assert (chosen.hidden_size, chosen.intermediate_size, chosen.num_key_value_heads) == (128, 200, 1)


@pytest.mark.parametrize("depth", range(1, 33))
def test_every_depth_gives_sizes_that_every_gguf_type_can_hold(depth):
    shape = ModelChoice(depth=depth).derive(4096)
    attention = shape.num_attention_heads * shape.head_dim
    assert all(size % 256 == 0 for size in (shape.hidden_size, shape.intermediate_size, attention))


def test_a_width_that_no_head_divides_is_refused():
    with pytest.raises(ConfigError, match="no multiple"):
        ModelChoice(depth=2, hidden_size=100).derive(64)


def test_heads_must_divide_into_groups():
    with pytest.raises(ValueError, match="must be a multiple"):
        ModelConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=3, num_key_value_heads=2, head_dim=4,
        )  # fmt: skip


def make(seed: int, depth: int = 2) -> Transformer:
    model = Transformer(ModelChoice(depth=depth, hidden_size=64).derive(96))
    initialize(model, seed)
    return model


def test_initialisation_is_decided_by_the_seed():
    same = zip(make(1).parameters(), make(1).parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)
    assert not torch.equal(make(1).head, make(2).head)


def test_the_first_loss_is_that_of_a_uniform_guess():
    ids = torch.randint(0, 96, (4, 32), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = make(1)(ids).logits()
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.log(torch.tensor(96.0)).item(), rel=0.05)


def test_the_residual_stream_does_not_grow_with_depth():
    ids = torch.randint(0, 96, (2, 16), generator=torch.Generator().manual_seed(0))
    sizes = []
    for depth in (2, 16):
        model = make(1, depth)
        stream = {}
        model.model.layers[-1].register_forward_hook(lambda _m, _i, out, s=stream: s.update(x=out[0]))
        with torch.no_grad():
            model(ids)
        sizes.append(stream["x"].std().item())
    assert sizes[1] < 2 * sizes[0]


def test_bf16_stays_close_to_fp32():
    model = make(1)
    ids = torch.randint(0, 96, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model(ids).logits().log_softmax(-1)
        model.compute_dtype = torch.bfloat16
        rough = model(ids).logits().log_softmax(-1)
    assert (exact - rough).abs().max() < 0.05


def test_flops_count_the_weights_that_multiply():
    model = Transformer(ModelChoice(depth=2, hidden_size=64).derive(96))
    multiplied = sum(p.numel() for p in model.parameters() if p.ndim == 2)
    assert matmul_parameters(model.config) == multiplied

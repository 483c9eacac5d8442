"""Documents in one row do not know of each other, whatever computes attention and whatever the model is.

`paths` are all the ways that this machine has: the explicit softmax with its own gradient (short rows on a
CPU), torch's fused attention with an added mask (long rows), FlexAttention by blocks, and tiles of bf16
where the processor multiplies them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.schema import Batch
from modelwright.formats.huggingface import load_model
from modelwright.kernels import attention, flex, tiles
from modelwright.model.adaptation import AdapterConfig, adapt, changed_layers
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.batches import Example, Packed, padded

LENGTH = 128
FAMILIES: dict[str, tuple[str, dict[str, object]]] = {
    "qwen3": ("qwen3", {}),
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {"tie_word_embeddings": False}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "gemma": ("gemma", {}),
    "mistral, window": ("mistral", {"sliding_window": 5}),
    "qwen3, window": ("qwen3", {"sliding_window": 9}),
    "mixture": (
        "qwen3_moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "router_aux_loss_coef": 0,
        },
    ),
}
ALL = [*FAMILIES, "lora", "dora"]
PATHS = ["explicit", "fused", "flex", "tiles"]


@pytest.fixture(scope="module")
def models(tiny_model: Callable[..., Path]) -> dict[str, Transformer]:
    """Heads of 32, so that tiles can serve."""
    sizes = {"head_dim": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    made = {name: load_model(tiny_model(kind, **sizes, **more)) for name, (kind, more) in FAMILIES.items()}
    for kind in ("lora", "dora"):
        made[kind] = load_model(tiny_model("qwen3", **sizes))
        adapt(made[kind], AdapterConfig(kind=kind, rank=4), seed=1)
        for layer in changed_layers(made[kind]).values():
            torch.nn.init.normal_(layer.b, std=0.05, generator=torch.Generator().manual_seed(2))
    return made


def take(path: str, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a model compute attention in one of the ways."""
    dtype = torch.bfloat16 if path == "tiles" else torch.float32
    monkeypatch.setattr(model, "compute_dtype", dtype)
    if path == "tiles" and not tiles.serves("cpu", dtype):
        pytest.skip("neither AVX512-BF16 nor AMX here")
    if path != "tiles":
        monkeypatch.setattr(attention.tile_attention, "usable", lambda *given: False)
    if path == "fused":
        monkeypatch.setattr(attention, "EXPLICIT_MAX_LENGTH", 0)
    if path == "flex":
        monkeypatch.setattr(flex, "usable", lambda segments: segments.shape[1] % flex.BLOCK == 0)


def examples(sizes: list[int], seed: int) -> list[Example]:
    random = torch.Generator().manual_seed(seed)
    made = [torch.randint(1, 90, (size,), generator=random).tolist() for size in sizes]
    return [Example(ids, [False, *(id % 3 > 0 for id in ids[1:-1]), True]) for ids in made]


def total(model: Transformer, batches: list[Batch]) -> tuple[float, int]:
    """The loss over all batches and its units."""
    objective = NextToken()
    losses = [objective(model.on_batch(batch), batch)[0].item() for batch in batches]
    return sum(losses), sum(map(objective.count, batches))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("path", PATHS)
def test_packed_loss_is_that_of_the_documents_alone(
    models: dict[str, Transformer], family: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[family]
    take(path, model, monkeypatch)

    @settings(max_examples=4, deadline=None, derandomize=True)
    @given(st.lists(st.integers(3, 60), min_size=2, max_size=8), st.integers(0, 99))
    def check(sizes: list[int], seed: int) -> None:
        made = examples(sizes, seed)
        packed = Packed(made, rows=2, length=LENGTH, seed=seed, padding=0)
        with torch.set_grad_enabled(path != "flex"):  # its gradient is compiled, for CUDA
            together = total(model, [packed[index] for index in range(len(packed))])
            alone = total(model, [padded([example], 0) for example in made])
        assert together[1] == alone[1]
        assert together[0] == pytest.approx(alone[0], rel=3e-3 if path == "tiles" else 1e-5)

    check()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ALL)
@pytest.mark.parametrize("path", PATHS)
def test_editing_a_document_leaves_the_bits_of_its_neighbours(
    models: dict[str, Transformer], family: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models[family]
    take(path, model, monkeypatch)
    packed = Packed(examples([40, 30, 50], 1), rows=1, length=LENGTH, seed=1, padding=0)[0]
    segments = packed.segments
    assert segments is not None and segments.max() == 2
    with torch.set_grad_enabled(path == "explicit"):
        before = model.on_batch(packed).logits()[0]
        for number in range(3):
            ids = packed.ids.clone()
            ids[segments == number] = 7
            changed = Batch(ids=ids, targets=packed.targets, segments=segments)
            same = (model.on_batch(changed).logits()[0] == before).all(-1)
            assert same[segments[0] != number].all(), "a neighbour heard of it"
            assert not same[segments[0] == number].all()


@pytest.mark.parametrize("family", ALL)
def test_padding_on_either_side_changes_neither_loss_nor_gradient(
    models: dict[str, Transformer], family: str
) -> None:
    """On the left it is a document of its own; positions are relative, so it may move the others."""
    model = models[family]
    batch = padded(examples([20, 13], 3), 0)
    columns = torch.zeros(2, 6, dtype=torch.int64)
    none = torch.full_like(columns, -100)
    inside = torch.zeros_like(batch.ids)
    right = Batch(ids=torch.cat([batch.ids, columns], 1), targets=torch.cat([batch.targets, none], 1))
    left = Batch(
        ids=torch.cat([columns, batch.ids], 1),
        targets=torch.cat([none, batch.targets], 1),
        segments=torch.cat([columns - 1, inside], 1),
    )

    def learned(seen: Batch) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        loss = NextToken()(model.on_batch(seen), seen)[0]
        loss.backward()
        return loss.item(), [p.grad.clone() for p in model.parameters() if p.grad is not None]

    loss, gradients = learned(batch)
    for other in (right, left):
        its_loss, its_gradients = learned(other)
        assert its_loss == pytest.approx(loss, rel=1e-6)
        scale = max(float(each.abs().max()) for each in gradients)
        for a, b in zip(gradients, its_gradients, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * scale)
    model.zero_grad()

"""Rows that learn beside frozen ones, and rows for new tokens."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from modelwright.base.errors import UserError
from modelwright.base.schema import Batch
from modelwright.formats.huggingface import load_model
from modelwright.model.rows import EMBEDDING, HEAD, LearnedRows, Rows, learn_rows, put_rows, rows_of, widen
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken

IDS = torch.randint(0, 90, (2, 9), generator=torch.Generator().manual_seed(3))
CHOSEN = torch.tensor([4, 88, 17])


def loss_of(model: Transformer) -> torch.Tensor:
    ids = IDS.clone()
    ids[:, ::3] = CHOSEN[:1]
    return NextToken()(model(ids), Batch(ids=ids, targets=ids.roll(-1, 1)))[0]


def learned(model: Transformer) -> LearnedRows:
    """The model's embedding, some rows of which learn now."""
    learn_rows(model, {EMBEDDING: CHOSEN})
    module = model.get_submodule(EMBEDDING)
    assert isinstance(module, LearnedRows)
    return module


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tiny_model: Callable[..., Path]) -> Path:
    return tiny_model("qwen3", tie_word_embeddings=request.param)


def test_gradients_are_those_of_the_whole_matrix(folder: Path) -> None:
    whole, some = load_model(folder), load_model(folder)
    some.requires_grad_(False)
    names = [EMBEDDING] if some.lm_head is None else [EMBEDDING, HEAD]
    learn_rows(some, dict.fromkeys(names, CHOSEN))
    expected, found = loss_of(whole), loss_of(some)
    assert torch.equal(found, expected)
    expected.backward()
    found.backward()
    for name in names:
        module = some.get_submodule(name)
        assert isinstance(module, LearnedRows)
        grad = whole.get_parameter(f"{name}.weight").grad
        assert grad is not None and module.rows.grad is not None
        torch.testing.assert_close(module.rows.grad, grad[CHOSEN], rtol=1e-6, atol=1e-6)
    assert [n for n, p in some.named_parameters() if p.requires_grad] == [f"{n}.rows" for n in names]


def test_what_has_been_learned_is_used_at_once(folder: Path) -> None:
    model = load_model(folder).requires_grad_(False)
    module = learned(model)
    before = module.base.get_parameter("weight").clone()
    with torch.no_grad():
        module.rows.mul_(2)
        logits = model(CHOSEN[None]).logits()
    rows = rows_of(model)[EMBEDDING]
    plain = load_model(folder)
    with torch.no_grad():
        plain.model.embed_tokens.weight[CHOSEN] *= 2
        assert torch.equal(plain(CHOSEN[None]).logits(), logits)
    assert torch.equal(rows.into(before), plain.model.embed_tokens.weight)
    others = [number for number in range(len(before)) if number not in CHOSEN]
    assert torch.equal(module.base.get_parameter("weight")[others], before[others])


def test_new_rows_begin_as_the_mean_of_their_pieces(folder: Path) -> None:
    model = load_model(folder)
    old = {name: model.get_parameter(f"{name}.weight").detach().clone() for name in (EMBEDDING,)}
    size = len(old[EMBEDDING])
    with torch.no_grad():
        logits = model(IDS).logits()
        widen(model, {size - 2: (5,), size: (1, 2, 3), size + 1: ()})
        found = model(IDS).logits()
    kept = [number for number in range(size) if number != size - 2]
    assert torch.equal(found[..., kept], logits[..., kept])  # no token that was there says anything else
    assert model.config.vocab_size == size + 2 == found.shape[-1]
    made, before = model.model.embed_tokens.weight, old[EMBEDDING]
    assert torch.equal(made[size - 2], before[5])  # a row of padding is taken into use
    torch.testing.assert_close(made[size], before[1:4].mean(0))
    torch.testing.assert_close(made[size + 1], before.mean(0))
    assert torch.isfinite(model(torch.tensor([[size, size + 1]])).logits()).all()


def test_rows_of_another_model_are_refused(folder: Path) -> None:
    model = load_model(folder)
    matrix = model.model.embed_tokens.weight.detach()
    size, width = matrix.shape
    for rows, message in (
        (Rows(torch.ones(1, width + 1), torch.tensor([0])), "wide"),
        (Rows(torch.ones(size - 1, width)), r"rows for \d+ tokens, and the model has"),
        (Rows(torch.ones(1, width), torch.tensor([size + 1])), f"none for token {size}"),
    ):
        with pytest.raises(UserError, match=message):
            rows.into(matrix)
    if model.lm_head is not None:
        weights = {n: t.detach() for n, t in model.state_dict().items()}
        with pytest.raises(UserError, match="different lengths"):
            longer = {EMBEDDING: Rows(torch.ones(1, width), torch.tensor([size]))}
            put_rows(weights, longer, model.config, unties=False)


def test_a_row_far_behind_the_last_takes_no_memory() -> None:
    rows = Rows(torch.ones(2, 4), torch.tensor([0, 2_000_000]))
    tracemalloc.start()
    with pytest.raises(UserError, match="reach to token 2000000, and there is none for token 8"):
        rows.into(torch.zeros(8, 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_a_low_precision_head_holds_them_rounded(folder: Path) -> None:
    model = load_model(folder, torch.bfloat16).requires_grad_(False)
    module = learned(model)
    with torch.no_grad():
        module.rows.add_(0.01234)
    expected = F.embedding(CHOSEN, module.weight)
    assert module.rows.dtype == torch.float32 and torch.equal(model.model.embed_tokens(CHOSEN), expected)
    assert torch.equal(expected, module.rows.bfloat16())

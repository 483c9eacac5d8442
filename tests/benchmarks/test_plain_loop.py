"""The plain loop that benchmarks compare with."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

from modelwright.model.config import ModelChoice

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_both_ways_to_attend_give_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    plain_loop = importlib.import_module("plain_loop")
    shape = ModelChoice(depth=1, architecture="llama").derive(64)
    ids, targets = torch.randint(0, 64, (2, 2, 24))
    losses = []
    for written_out in (False, True):
        torch.manual_seed(0)
        model = plain_loop.PlainLlama.of(shape, 24, written_out)
        loss = model(ids, targets)
        losses.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for fused, plain in zip(*losses, strict=True):
        torch.testing.assert_close(plain, fused, rtol=1e-4, atol=1e-6)

"""A model that follows its training with more than its parameters: a mixture of experts in the loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import make_model, make_run, make_windows

from modelwright.base.metrics import read_metrics
from modelwright.model.balance import BalanceConfig
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training import loop
from modelwright.training.loop import LoopConfig, train
from modelwright.training.optimizer import OptimizerConfig


def mixture(kind: Any) -> Transformer:
    dense = make_model().config.model_dump()
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    shape = ModelConfig.model_validate({**dense, "architecture": "qwen3_moe", **sizes})
    model = Transformer(shape, balance=BalanceConfig(kind=kind))
    initialize(model, 1)
    return model


def trained(folder: Path, kind: Any, optimizer: Any, until: int | None = None) -> Transformer:
    config = LoopConfig(checkpoint_every=4, optimizer=OptimizerConfig(kind=optimizer))
    model, run = mixture(kind), make_run(folder, config)
    original, calls = loop._accumulate, {"n": 0}

    def interrupted(*args: Any) -> dict[str, float]:
        calls["n"] += 1
        if until is not None and calls["n"] > until:
            raise KeyboardInterrupt
        return original(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_accumulate", interrupted)
        try:
            train(model, NextToken(), make_windows(), config.plan(14), config, run, validate=dict)
        except KeyboardInterrupt:
            assert until is not None
        finally:
            run.close()
    return model


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("kind", ["bias", "loss"])
def test_an_interrupted_mixture_ends_with_the_same_bits(tmp_path: Path, kind: Any, optimizer: Any) -> None:
    whole = trained(tmp_path / "whole", kind, optimizer)
    trained(tmp_path / "broken", kind, optimizer, until=6)
    resumed = trained(tmp_path / "broken", kind, optimizer)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    lines = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "broken")]
    assert lines[0] == lines[1]


def test_the_loop_balances_and_says_so(tmp_path: Path) -> None:
    model = trained(tmp_path, "bias", "adamw")
    rows = list(read_metrics(tmp_path / "metrics.jsonl"))
    assert all(0 <= row["expert_entropy"] <= 1 and row["expert_violation"] >= 0 for row in rows)
    assert rows[0]["router_bias"] == 1.0 and rows[-1]["router_bias"] == 0.0  # gone by the end
    assert any("experts:" in line for line in model.describe_experts())


def test_a_dense_model_has_nothing_to_follow(tmp_path: Path) -> None:
    config, model = LoopConfig(), make_model()
    run = make_run(tmp_path, config)
    train(model, NextToken(), make_windows(), config.plan(3), config, run, validate=dict)
    run.close()
    assert not any("expert" in name for row in read_metrics(tmp_path / "metrics.jsonl") for name in row)

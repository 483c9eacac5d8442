"""Texts scored in a sliding window against one pass without a cache; decoding stands in the table
(test_cached_is_naive.py)."""

from __future__ import annotations

import pytest
import torch
from tests.inference.test_engine import prompts_of

from modelwright.inference.engine import Engine


@pytest.mark.parametrize("window", [1, 9, 40])
def test_scores_equal_those_of_one_pass(make_model, tokenizer, window):
    model = make_model("mistral")
    model.config = model.config.model_copy(update={"sliding_window": window})
    engine = Engine(model, tokenizer, stop_ids=())
    for ids, scores in zip(prompts := prompts_of([70, 7, 33]), engine.score(prompts), strict=True):
        with torch.no_grad():
            rows = model(torch.tensor([ids])).logits()[0].log_softmax(-1)
        wanted = [float(rows[place, token]) for place, token in enumerate(ids[1:])]
        assert scores == pytest.approx(wanted, abs=3e-5)

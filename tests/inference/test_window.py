"""Cached decoding in a sliding window against the plainest decoder there is."""

from __future__ import annotations

import pytest
import torch
from tests.inference.test_engine import naive, prompts_of

from modelwright.base.schema import Sampling
from modelwright.inference.engine import Engine


@pytest.mark.parametrize("window", [1, 9, 40])
def test_equals_naive_decoding(make_model, tokenizer, window):
    model = make_model("mistral")
    model.config = model.config.model_copy(update={"sliding_window": window})
    engine = Engine(model, tokenizer, max_slots=3, stop_ids=())
    prompts = prompts_of([1, 7, 70, 2, 33, 70])
    for prompt, done in zip(prompts, engine.sample(prompts, Sampling(max_tokens=12)), strict=True):
        ids, logprobs = naive(model, prompt, 12)
        assert list(done.ids) == ids
        assert done.logprobs == pytest.approx(logprobs, abs=3e-5)
    assert engine.score(prompts[2:3])[0][-12:] == pytest.approx(scored(model, prompts[2])[-12:], abs=3e-5)


def scored(model, ids):
    """Log-probabilities of a text in one pass without a cache."""
    with torch.no_grad():
        rows = model(torch.tensor([ids])).logits()[0].log_softmax(-1)
    return [float(rows[place, token]) for place, token in enumerate(ids[1:])]

"""lm-evaluation-harness scores through /v1/completions. It pulls in much, so it has an extra of its own."""

from __future__ import annotations

import warnings

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    why = "lm-evaluation-harness is not installed: pip install 'modelwright[harness]'"
    completions = pytest.importorskip("lm_eval.models.openai_completions", reason=why)
    Instance = pytest.importorskip("lm_eval.api.instance", reason=why).Instance


@pytest.mark.filterwarnings("ignore")
def test_the_harness_reads_our_log_probabilities(address, engine, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    harness = completions.LocalCompletionsAPI(
        base_url=f"{address}/v1/completions",
        model="tiny",
        tokenizer=str(tmp_path),
        tokenizer_backend="huggingface",
        max_length=512,
        batch_size=2,
    )
    pairs = [
        ("The capital of France is", " Paris"),
        ("Die Hauptstadt von Österreich ist", " Wien. "),
        ("A", "b"),
    ]
    asked = [Instance("loglikelihood", {}, pair, place) for place, pair in enumerate(pairs)]
    for (context, rest), (total, greedy) in zip(pairs, harness.loglikelihood(asked), strict=True):
        start, ids = len(tokenizer.encode(context)), tokenizer.encode(context + rest)
        [scored] = engine.score_with_top([ids], top=1)
        assert total == pytest.approx(sum(scored.logprobs[start - 1 :]), abs=1e-4)
        best = [row[0][0] for row in scored.top[start - 1 :]]
        assert greedy == (best == ids[start:])
    asked = [Instance("generate_until", {}, ("Wien", {"max_gen_toks": 6, "until": []}), 0)]
    [text] = harness.generate_until(asked)
    assert isinstance(text, str) and text

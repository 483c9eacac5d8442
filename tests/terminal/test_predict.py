"""The next-token view says what the model says, and its loop is the engine's."""

from __future__ import annotations

import io
import json
import math
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from modelwright.base.schema import Sampling
from modelwright.terminal.load import Loaded, load
from modelwright.terminal.predict import look_ahead, predict, show_token


@pytest.fixture(scope="module")
def loaded(tiny_model) -> Loaded:
    return load(tiny_model())


def test_the_numbers_are_the_models(loaded):
    [shown] = look_ahead(loaded, "The capital", top=5)
    truth = loaded.engine.next_token_distribution(loaded.tokenizer.encode("The capital"))
    assert [c.rank for c in shown.candidates] == [1, 2, 3, 4, 5]
    assert [c.probability for c in shown.candidates] == pytest.approx(truth.topk(5).values.tolist())
    assert shown.tail == pytest.approx(1 - sum(c.probability for c in shown.candidates), abs=1e-6)
    entropy = -sum(p * math.log2(p) for p in truth.tolist() if p > 0)
    [step] = shown.steps
    assert (step.name, step.kept, step.moved) == ("model", len(truth), 0.0)
    assert step.entropy_bits == pytest.approx(entropy, abs=1e-4)
    assert shown.vocabulary == len(truth)
    assert shown.pick == shown.candidates[0]


def test_each_step_says_what_it_took(loaded):
    sampling = Sampling(temperature=0.7, top_k=9, top_p=0.8, min_p=0.2, logit_bias=((40, 4.0),), seed=1)
    [shown] = look_ahead(loaded, "The capital", top=400, sampling=sampling)
    steps = {step.name: step for step in shown.steps}
    assert list(steps) == ["model", "penalties and bias", "temperature", "top-k", "top-p", "min-p"]
    for reshaped in ("penalties and bias", "temperature"):
        assert steps[reshaped].kept == shown.vocabulary and steps[reshaped].removed == 0
        assert steps[reshaped].moved > 0
    assert steps["top-k"].kept == 9 >= steps["top-p"].kept >= steps["min-p"].kept
    left = 1.0
    for name in ("top-k", "top-p", "min-p"):
        assert steps[name].removed == pytest.approx(steps[name].moved, abs=1e-6)
        left *= 1 - steps[name].removed
    assert shown.left == pytest.approx(left)
    out = Counter(candidate.set_aside_by for candidate in shown.candidates)
    assert out["top-k"] == shown.vocabulary - 9 and out[None] == steps["min-p"].kept
    assert sum(candidate.drawn for candidate in shown.candidates) == pytest.approx(1, abs=1e-5)
    assert (shown.pick.drawn > 0) and shown.pick.set_aside_by is None


@pytest.mark.parametrize(
    "sampling",
    [
        None,
        Sampling(temperature=0.8, top_k=20, top_p=0.9, seed=6),
        Sampling(temperature=0.9, repetition_penalty=1.3, frequency_penalty=0.5, seed=2),
    ],
)
def test_the_loop_makes_what_the_engine_makes(loaded, sampling):
    prompt = loaded.tokenizer.encode("Tokyo")
    steps = look_ahead(loaded, "Tokyo", steps=6, sampling=sampling)
    expected = loaded.engine.sample([prompt], replace(sampling or Sampling(), max_tokens=6))[0]
    assert tuple(step.pick.id for step in steps) == expected.ids
    assert steps[-1].text.startswith("Tokyo")
    if sampling:
        assert all(step.pick.drawn > 0 for step in steps)


def test_an_empty_prompt_starts_a_document(loaded):
    assert look_ahead(loaded, "")[0].text == "<|endoftext|>"


def test_tokens_are_shown_honestly(loaded):
    tokenizer = loaded.tokenizer
    by_bytes = {tokenizer.token_bytes(i): i for i in range(tokenizer.vocab_size)}
    assert show_token(tokenizer, by_bytes[b" "]) == "␣"
    assert show_token(tokenizer, by_bytes[b"\n"]) == "⏎"
    assert show_token(tokenizer, by_bytes[b"\xe6"]) == "\\xe6"
    assert show_token(tokenizer, by_bytes[b"\x1b"]) == "\\x1b"
    assert show_token(tokenizer, 10**6) == "(unused 1000000)"


def test_the_table_and_the_json(tiny_model):
    folder = tiny_model()

    def output(**settings: object) -> str:
        console = Console(file=io.StringIO(), width=80)
        predict(folder, "The capital", console=console, **settings)  # type: ignore[arg-type]
        return console.file.getvalue()  # type: ignore[attr-defined]

    table = output(top=3, steps=2, sampling=Sampling(temperature=0.7, top_k=2, seed=1))
    for words in (
        "→ ",
        "drawn from",
        "entropy",
        "2. ",
        "temperature 0.7",
        "removed",
        "top-k 2",
        "renormalised",
    ):
        assert words in table
    assert max(map(len, table.splitlines()[1:])) <= 80
    content = json.loads(output(top=3, steps=2, as_json=True))
    assert [len(step["candidates"]) for step in content["steps"]] == [3, 3]
    first = content["steps"][0]["candidates"][0]
    assert set(first) == {"rank", "id", "token", "bytes", "probability", "drawn", "set_aside_by"}

"""Guesses change how fast a text comes, and nothing else."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling, Structure
from modelwright.inference.engine import Engine
from modelwright.inference.scheduler import Sequence
from modelwright.inference.speculate import FIRST_HOPE, NGram, Speculation, Speculator
from modelwright.tokenizer.learn import learn

SAMPLED = Sampling(max_tokens=40, temperature=0.9, top_k=40, top_p=0.95, seed=3)


def near(model, noise=0.02):
    """A model that mostly agrees."""
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return other


@pytest.fixture(autouse=True, scope="module")
def cheap_guesses():
    """Here drafts are as large as the model, and by the clock would soon not be asked any more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelwright.inference.speculate.Pace.cost", lambda self, requests: 0.05)
        patch.setattr("modelwright.inference.speculate.Pace.compares", lambda self, requests: False)
        yield


@pytest.fixture(scope="module")
def draft(model):
    return near(model)


def speculation(kind, draft, tokenizer, **settings):
    if kind == "ngram":
        return Speculation(**settings)
    return Speculation(kind="draft", draft=draft, draft_tokenizer=tokenizer, **settings)


def prompts_of(count, seed, longest=40):
    """Random tokens, and repetitions of them that can be looked up."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        part = [draw.randrange(3, 320) for _ in range(draw.randrange(1, longest))]
        found.append((part * draw.randrange(1, 4))[:100])
    return found


def running(engine, requests):
    """Submit all at once; completions by request, in order."""
    order = [engine.submit(prompt, sampling) for prompt, sampling in requests]
    done = {}
    while len(done) < len(order):
        done |= {delta.request: delta.completion for delta in engine.step() if delta.completion}
    return [done[request] for request in order]


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 9), st.integers(2, 40))
@settings(deadline=None, max_examples=10)
@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_greedy_text_and_log_probabilities_are_the_same(
    make_model, tokenizer, kind, seed, count, tokens, rows
):
    model = make_model(seed=seed % 3)
    requests = [
        (prompt, Sampling(max_tokens=50, repetition_penalty=1.1 if seed % 2 else 1.0, top_logprobs=2))
        for prompt in prompts_of(count, seed)
    ]
    plain = running(Engine(model, tokenizer), requests)
    guess = speculation(kind, near(model), tokenizer, tokens=tokens, rows=rows)
    engine = Engine(model, tokenizer, speculate=guess)
    for with_guesses, without in zip(running(engine, requests), plain, strict=True):
        assert with_guesses.ids == without.ids and with_guesses.text == without.text
        assert with_guesses.finish_reason == without.finish_reason
        assert with_guesses.logprobs == pytest.approx(without.logprobs, abs=1e-5)
        assert with_guesses.sampler_logprobs == without.sampler_logprobs
        assert [[token for token, _ in row] for row in with_guesses.top_logprobs] == [
            [token for token, _ in row] for row in without.top_logprobs
        ]
    found = engine.stats()
    assert found.cache_usage == 0 and (kind == "ngram" or found.drafted > 0 or rows < 2 * count)


def test_lookup_keeps_what_a_seed_draws(model, tokenizer):
    sampling = replace(SAMPLED, frequency_penalty=0.3, presence_penalty=0.2, logit_bias=((7, 2.0),))
    requests = [(prompt, replace(sampling, seed=n)) for n, prompt in enumerate(prompts_of(6, 5))]
    engine = Engine(model, tokenizer, speculate=Speculation())
    assert running(engine, requests) == running(Engine(model, tokenizer), requests)
    assert engine.stats().drafted > 0


@pytest.mark.parametrize("kind", ["ngram", "draft"])
def test_the_same_seed_the_same_text_in_a_crowd_and_after_preemption(model, draft, tokenizer, kind):
    requests = [
        (prompt, replace(SAMPLED, seed=n, max_tokens=50)) for n, prompt in enumerate(prompts_of(9, 6))
    ]
    guess = speculation(kind, draft, tokenizer, tokens=5, rows=12)
    alone = [
        running(Engine(model, tokenizer, max_slots=1, speculate=replace(guess, rows=6)), [request])[0].ids
        for request in requests
    ]
    engine = Engine(model, tokenizer, max_slots=6, cache_tokens=160, speculate=guess)
    assert [done.ids for done in running(engine, requests)] == alone
    assert engine.stats().preemptions > 0 and engine.stats().drafted > 0


@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_drawn_tokens_follow_the_models_distribution(model, tokenizer, noise):
    """Chi-square over the second token, which stands where a draft guesses, whether it is good or bad."""
    prompt = [5, 17, 9]
    sampling = Sampling(max_tokens=3, temperature=1.3, top_k=6, logit_bias=((5, 3.0),))
    guess = speculation("draft", near(model, noise), tokenizer, tokens=2, rows=256)
    engine = Engine(model, tokenizer, max_slots=64, stop_ids=(), speculate=guess)
    requests = [(prompt, replace(sampling, seed=seed)) for seed in range(1500)]
    drawn = [done.ids[:2] for done in running(engine, requests)]
    plain = Engine(model, tokenizer)
    first = plain.next_token_distribution(prompt, sampling)
    observed, expected = [], []
    for token in first.nonzero()[:, 0].tolist():
        second = plain.next_token_distribution([*prompt, token], sampling)
        for other in second.nonzero()[:, 0].tolist():
            observed.append(drawn.count((token, other)))
            expected.append(float(first[token] * second[other]) * len(drawn))
    assert sum(observed) == len(drawn)
    rare = [number for number, value in enumerate(expected) if value < 5]
    kept = [number for number, value in enumerate(expected) if value >= 5]
    columns = [[row[n] for n in kept] + [sum(row[n] for n in rare)] for row in (observed, expected)]
    if not rare:
        columns = [column[:-1] for column in columns]
    assert len(kept) > 5
    assert stats.chisquare(*columns).pvalue > 1e-3
    stats_ = engine.stats()
    share = stats_.accepted / stats_.drafted
    assert share > 0.75 if noise < 0.1 else share < 0.6, share


def test_acceptance_is_counted(model, tokenizer):
    """A model that drafts for itself is always right, greedy or drawn."""
    for sampling in (Sampling(max_tokens=40), SAMPLED):
        guess = speculation("draft", model, tokenizer, tokens=4)
        engine = Engine(model, tokenizer, stop_ids=(), speculate=guess)
        running(engine, [([5, 6, 7], sampling)])
        stats = engine.stats()
        assert stats.accepted == stats.drafted > 0 and stats.generation_tokens == 40
        # One token a step without a guess; with them fewer steps.
        assert stats.accepted >= 25


def test_streams_get_every_token_once(model, tokenizer):
    prompt = prompts_of(1, 8)[0]
    engine = Engine(model, tokenizer, speculate=Speculation())
    deltas = list(engine.stream(prompt, SAMPLED))
    whole = deltas[-1].completion
    assert whole is not None and "".join(delta.text for delta in deltas) == whole.text
    assert tuple(token for delta in deltas for token in delta.ids) == whole.ids
    assert all(delta.completion is None for delta in deltas[:-1])


def test_structured_answers_are_not_guessed(model, tokenizer):
    pytest.importorskip("llguidance")
    sampling = Sampling(max_tokens=20, structure=Structure("regex", "(ab){20}"))
    engine = Engine(model, tokenizer, speculate=Speculation())
    assert running(engine, [([5], sampling)]) == running(Engine(model, tokenizer), [([5], sampling)])
    assert engine.stats().drafted == 0


def decoding(tokens):
    sequence = Sequence(0, tuple(tokens[:-1]), Sampling(), 0, frozenset(), 100)
    sequence.accept(tokens[-1], 0.0)
    sequence.computed = sequence.length - 1
    return sequence


def test_the_longest_ending_is_looked_up():
    ngram = NGram(3)
    sequence = decoding([1, 2, 3, 4, 5, 9, 2, 3, 6, 7, 1, 2, 3])
    assert ngram.propose({sequence: 3}) == {sequence: [4, 5, 9]}  # of 1 2 3, not what followed 2 3
    sequence.accept(6, 0.0)
    assert ngram.propose({sequence: 2}) == {sequence: [7, 1]}
    sequence.accept(200, 0.0)
    assert ngram.propose({sequence: 2}) == {}
    circle = decoding([1, 2, 1, 2, 1, 2])
    assert NGram(3).propose({circle: 5}) == {circle: [1, 2, 1, 2, 1]}


def test_guesses_end_where_they_do_not_pay_and_are_tried_again():
    sequence = decoding([1, 2] * 20)
    speculator = Speculator(Speculation(tokens=8, rows=16), NGram(3))
    first = len(speculator.guesses([sequence])[sequence])
    assert first == 8 and FIRST_HOPE < 1
    while found := speculator.guesses([sequence]):
        speculator.learn(sequence, len(found[sequence]), 0)
    pause = 1
    while not speculator.guesses([sequence]):
        pause += 1
    assert 1 < pause < 50
    crowd = [decoding([1, 2] * 20) for _ in range(17)]
    assert speculator.guesses(crowd) == {}
    assert all(len(guess) == 1 for guess in speculator.guesses(crowd[:8]).values())


def test_drafts_that_mean_something_else_are_refused(make_model, model, tokenizer):
    with pytest.raises(UserError, match="400 tokens"):
        Engine(model, tokenizer, speculate=speculation("draft", make_model(vocab_size=400), tokenizer))
    other = learn(["Something else altogether, with other pairs."] * 4, 300)
    with pytest.raises(UserError, match="tokenizer"):
        Engine(model, tokenizer, speculate=speculation("draft", model, other))
    with pytest.raises(UserError, match="needs a draft model"):
        Speculation(kind="draft")
    with pytest.raises(UserError, match="at least 1"):
        Speculation(tokens=0)

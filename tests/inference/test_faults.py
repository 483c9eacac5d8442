"""A request that fails ends alone: its neighbours' texts are what they are without it, and nothing leaks."""

from __future__ import annotations

import copy
import random
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling, Structure
from modelwright.inference.cache import unwritten_zeros
from modelwright.inference.compiled import CompiledRunner
from modelwright.inference.engine import Engine
from modelwright.inference.loop import in_parts
from modelwright.inference.runner import Piece, PlainRunner
from modelwright.inference.sampling import BrokenModel
from modelwright.inference.speculate import Speculation

POISON = 7
AVOIDED = ((POISON, -100.0),)
"""No answer draws the poison, so that it is in those prompts alone that are given it."""


class Faulty:
    """A runner that raises what `fault` returns for the pieces of a pass, where it returns anything."""

    def __init__(self, runner, fault):
        self._runner, self._fault = runner, fault

    def __getattr__(self, name):
        return getattr(self._runner, name)

    def logits(self, pieces):
        if error := self._fault(pieces):
            raise error
        return self._runner.logits(pieces)


def faulty(engine, fault):
    """The engine, with faults injected."""
    engine._loop._runner = Faulty(engine._loop._runner, fault)
    return engine


def poisoned(pieces):
    """A row that cannot be computed, whoever is with it."""
    return RuntimeError("injected") if any(POISON in piece.ids for piece in pieces) else None


def prompts_of(count, seed, poisoned=()):
    draw = random.Random(seed)
    found = [
        [token for token in (draw.randrange(8, 320) for _ in range(draw.randrange(1, 90)))]
        for _ in range(count)
    ]
    for place in poisoned:
        found[place][draw.randrange(len(found[place]))] = POISON
    return found


def sampling_of(number, **more):
    return Sampling(max_tokens=20, temperature=number % 3 / 2, seed=number, logit_bias=AVOIDED, **more)


def outcomes(engine, requests, streaming=False):
    """For each request its completion, or the error with which it ended. All come at once."""
    order = [engine.submit(prompt, sampling, streaming=streaming) for prompt, sampling in requests]
    ended = {}
    for _ in range(2000):
        for delta in engine.step():
            if delta.error or delta.completion:
                assert delta.request not in ended
                ended[delta.request] = delta.error or delta.completion
        if len(ended) == len(order):
            break
    assert engine.stats().running == engine.stats().waiting == engine.stats().cache_usage == 0
    return [ended[request] for request in order]


def alone(model, tokenizer, requests):
    engine = Engine(model, tokenizer)
    return [outcomes(engine, [request])[0] for request in requests]


@pytest.mark.parametrize("use_compiled", [True, False])
@pytest.mark.parametrize("speculate", [None, Speculation()])
@given(st.integers(0, 999), st.integers(1, 9), st.data())
@settings(deadline=None, max_examples=8)
def test_rows_that_raise_fail_alone(model, tokenizer, use_compiled, speculate, seed, count, data):
    victims = data.draw(st.sets(st.integers(0, count - 1)))
    requests = [(p, sampling_of(n)) for n, p in enumerate(prompts_of(count, seed, victims))]
    engine = Engine(
        model, tokenizer, cache_tokens=320, step_tokens=64, use_compiled=use_compiled, speculate=speculate
    )
    found = outcomes(faulty(engine, poisoned), requests, streaming=bool(seed % 2))
    for number, (outcome, expected) in enumerate(zip(found, alone(model, tokenizer, requests), strict=True)):
        if number in victims:
            assert isinstance(outcome, RuntimeError) and str(outcome) == "injected"
        else:
            assert outcome.ids == expected.ids and outcome.text == expected.text


def test_without_memory_for_all_a_step_is_made_in_halves(model, tokenizer):
    requests = [(prompt, sampling_of(n)) for n, prompt in enumerate(prompts_of(9, 3))]
    passes = []

    def short_of_memory(pieces):
        passes.append(len(pieces))
        return MemoryError() if len(pieces) > 2 else None

    engine = faulty(Engine(model, tokenizer), short_of_memory)
    assert [done.ids for done in outcomes(engine, requests)] == [
        done.ids for done in alone(model, tokenizer, requests)
    ]
    assert max(passes) == 9 and passes.count(2) > 20


@pytest.fixture(scope="module")
def broken(make_model):
    """A model to which one token is no number: whoever reads it has NaN in its cache and in its logits."""
    model = copy.deepcopy(make_model("llama"))
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = float("nan")
    return model


@pytest.mark.parametrize("use_compiled", [True, False])
@pytest.mark.parametrize("cache", ["auto", "int8"])
def test_numbers_that_are_none_stay_with_their_request(broken, tokenizer, use_compiled, cache):
    """Blocks go from hand to hand here: prompts with NaN are given up half-read, or end with an error."""
    engine = Engine(
        broken,
        tokenizer,
        max_slots=4,
        cache_tokens=320,
        step_tokens=32,
        cache=cache,
        use_compiled=use_compiled,
    )
    for round_ in range(2):
        victims = {1, 4}
        prompts = prompts_of(7, round_, victims)
        requests = [(prompt, sampling_of(n)) for n, prompt in enumerate(prompts)]
        given_up = engine.submit([POISON] * 120, sampling_of(0))
        engine.step()
        engine.cancel(given_up)
        clean = Engine(broken, tokenizer, cache=cache, use_compiled=use_compiled)
        for number, (outcome, request) in enumerate(zip(outcomes(engine, requests), requests, strict=True)):
            if number in victims:
                assert isinstance(outcome, BrokenModel) and "not finite" in str(outcome)
            else:
                assert outcome.ids == outcomes(clean, [request])[0].ids


@pytest.mark.parametrize("cache", ["auto", "int8"])
@pytest.mark.parametrize("kind", [PlainRunner, CompiledRunner])
def test_an_emptied_cache_is_there_once(make_model, monkeypatch, kind, cache):
    """It may take most of the memory: there is no room for the old and the new one at a time."""
    runner = kind(make_model("llama"), 8, cache)
    pools = runner._cache if kind is CompiledRunner else [runner._cache.keys, runner._cache.values]
    old = [weakref.ref(pool) for pool in pools]
    del pools

    def fresh(*shape, **settings):
        assert [ref() for ref in old] == [None, None]
        return unwritten_zeros(*shape, **settings)

    for user in ("cache", "compiled"):
        monkeypatch.setattr(f"modelwright.inference.{user}.unwritten_zeros", fresh)
    runner.clear()
    piece = [Piece([5, 6], 0, [3], 1)]
    assert torch.equal(runner.logits(piece), kind(make_model("llama"), 8, cache).logits(piece))


def test_guesses_of_a_broken_draft_are_no_ones_fault(model, broken, tokenizer, monkeypatch):
    monkeypatch.setattr("modelwright.inference.speculate.Pace.cost", lambda self, requests: 0.05)
    monkeypatch.setattr("modelwright.inference.speculate.Pace.compares", lambda self, requests: False)
    guess = Speculation(kind="draft", draft=broken, draft_tokenizer=tokenizer)
    requests = [(prompt, sampling_of(0)) for prompt in prompts_of(5, 8, {0, 3})]
    engine = Engine(model, tokenizer, speculate=guess)
    assert [done.ids for done in outcomes(engine, requests)] == [
        done.ids for done in alone(model, tokenizer, requests)
    ]
    engine = Engine(model, tokenizer, speculate=guess)
    proposer = engine._speculator._proposer
    proposer._runner = Faulty(proposer._runner, lambda pieces: MemoryError("no room"))
    with pytest.warns(UserWarning, match="nothing is guessed from now on: MemoryError: no room"):
        found = outcomes(engine, requests)
    assert [done.ids for done in found] == [done.ids for done in alone(model, tokenizer, requests)]
    assert engine.stats().drafted == 0 and proposer._pool.used == 0


@pytest.mark.parametrize("method", ["allowed", "accept"])
def test_a_structure_that_fails_ends_its_own_request(model, tokenizer, monkeypatch, method):
    pytest.importorskip("llguidance")
    requests = [(prompt, sampling_of(n)) for n, prompt in enumerate(prompts_of(5, 4))]
    requests[2] = (requests[2][0], Sampling(max_tokens=20, structure=Structure("regex", "(ab){4}")))
    expected = alone(model, tokenizer, requests)
    calls = []

    def failing(self, *arguments):
        calls.append(1)
        raise ValueError("injected")

    monkeypatch.setattr(f"modelwright.inference.structured.Matcher.{method}", failing)
    found = outcomes(Engine(model, tokenizer), requests)
    assert calls and isinstance(found[2], ValueError)
    assert [found[n].ids for n in (0, 1, 3, 4)] == [expected[n].ids for n in (0, 1, 3, 4)]


def test_a_text_that_cannot_be_made_ends_its_own_request(model, tokenizer):
    requests = [(prompt, sampling_of(n)) for n, prompt in enumerate(prompts_of(4, 5))]
    engine = Engine(model, tokenizer)
    order = [engine.submit(*request, streaming=True) for request in requests]
    first = engine._scheduler.waiting[1]
    first.text.push = lambda token, **_: 1 / 0
    ended = {}
    while len(ended) < 4:
        ended |= {d.request: d.error or d.completion for d in engine.step() if d.error or d.completion}
    assert isinstance(ended[order[1]], ZeroDivisionError) and engine.stats().cache_usage == 0
    expected = alone(model, tokenizer, requests)
    assert all(ended[order[n]].ids == expected[n].ids for n in (0, 2, 3))


def test_nothing_left_to_draw_ends_its_own_request(model, tokenizer):
    requests = [(prompt, sampling_of(n)) for n, prompt in enumerate(prompts_of(3, 6))]
    engine = Engine(model, tokenizer)
    order = [engine.submit(*request) for request in requests]
    engine._scheduler.waiting[0].matcher = Nothing()
    ended = {}
    while len(ended) < 3:
        ended |= {d.request: d.error or d.completion for d in engine.step() if d.error or d.completion}
    error = ended[order[0]]
    assert isinstance(error, UserError) and "no token that could be drawn" in str(error)
    expected = alone(model, tokenizer, requests)
    assert [ended[order[n]].ids for n in (1, 2)] == [expected[n].ids for n in (1, 2)]
    assert engine.stats().preemptions == 0, "the cache is sound"


class Nothing:
    """A structure that allows no token at all."""

    error = ""

    def allowed(self):
        return torch.zeros(320, dtype=torch.bool)


def test_who_waits_for_an_answer_is_told(model, tokenizer):
    for use in (
        lambda engine: engine.sample([[9, 8, 9], [9, POISON]], sampling_of(0)),
        lambda engine: list(engine.stream([9, POISON], sampling_of(0))),
    ):
        engine = faulty(Engine(model, tokenizer), poisoned)
        with pytest.raises(RuntimeError, match="injected"):
            use(engine)
        assert not engine._scheduler.busy and engine.stats().cache_usage == 0
        assert engine.sample([[9, 8, 9]], sampling_of(0)) == Engine(model, tokenizer).sample(
            [[9, 8, 9]], sampling_of(0)
        )


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_the_items_that_fail_are_found(bad):
    def work(items):
        if any(bad[item] for item in items):
            raise ValueError
        return list(items)

    found = list(in_parts(range(len(bad)), work))
    assert [item for items, _ in found for item in items] == list(range(len(bad)))
    for items, outcome in found:
        assert outcome == list(items) if not any(bad[item] for item in items) else len(items) == 1

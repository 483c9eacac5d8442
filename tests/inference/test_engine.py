"""Cached, batched decoding against the plainest decoder there is: the whole text anew for every token."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling, Structure
from modelwright.inference.engine import Engine, PromptTooLong
from modelwright.inference.speculate import Speculation

GREEDY = Sampling(max_tokens=12)


def naive(model, prompt, count):
    """Greedy decoding without a cache: ids and log-probabilities."""
    ids, logprobs = list(prompt), []
    for _ in range(count):
        with torch.no_grad():
            row = model(torch.tensor([ids])).logits()[0, -1].log_softmax(-1)
        ids.append(int(row.argmax()))
        logprobs.append(float(row.max()))
    return ids[len(prompt) :], logprobs


def prompts_of(lengths, vocab=320, seed=1):
    draw = random.Random(seed)
    return [[draw.randrange(3, vocab) for _ in range(length)] for length in lengths]


def test_equals_naive_when_joining_and_leaving(model, tokenizer):
    """Requests of different lengths come while others run, some are cancelled, and rows are reused."""
    engine = Engine(model, tokenizer, max_slots=4, stop_ids=())
    prompts = prompts_of([3, 9, 40, 2, 17, 66, 5, 11, 21], seed=2)
    wanted = [4, 25, 9, 14, 3, 20, 7, 1, 30]
    requests: dict[int, int] = {}
    cancelled: set[int] = set()
    done = {}
    for turn in range(200):
        if turn < len(prompts):
            sampling = replace(GREEDY, max_tokens=wanted[turn])
            requests[engine.submit(prompts[turn], sampling)] = turn
        if turn == 6:
            running = next(r for r, which in requests.items() if wanted[which] >= 20 and r not in done)
            assert engine.cancel(running) is not None
            cancelled.add(running)
        done |= {d.request: d.completion for d in engine.step() if d.completion}
    assert set(done) | cancelled == set(requests) and len(cancelled) == 1
    for request, completion in done.items():
        which = requests[request]
        ids, logprobs = naive(model, prompts[which], wanted[which])
        assert list(completion.ids) == ids
        assert completion.logprobs == pytest.approx(logprobs, abs=1e-5)


def test_answers_end_where_the_context_ends(engine):
    [done] = engine.sample(prompts_of([150]), replace(GREEDY, max_tokens=100))
    assert len(done.ids) == 10 and done.finish_reason == "length"


def test_a_seed_gives_the_same_text_in_any_company(model, tokenizer):
    sampling = Sampling(max_tokens=20, temperature=1.0, top_k=50, top_p=0.9, min_p=0.01, seed=7)
    prompt, *others = prompts_of([6, 1, 30, 12, 4])
    alone = Engine(model, tokenizer, max_slots=1).sample([prompt], sampling)[0]
    engine = Engine(model, tokenizer, max_slots=8)
    for number, other in enumerate(others):
        engine.submit(other, Sampling(max_tokens=40, temperature=float(number), seed=number))
    engine.step()
    crowded = engine.sample([*others, prompt], sampling)[-1]
    ended = [delta.request for delta in engine.step() if delta.completion]
    assert set(ended) <= {0, 1, 2, 3}, "what ended meanwhile is still delivered"
    assert crowded.ids == alone.ids and crowded.text == alone.text


def test_copies_of_a_prompt_differ_but_repeat(engine):
    sampling = Sampling(max_tokens=10, temperature=1.0, seed=3)
    [prompt] = prompts_of([5])
    first = engine.sample([prompt] * 4, sampling)
    assert len({done.ids for done in first}) == 4
    assert engine.sample([prompt] * 4, sampling) == first
    unseeded = replace(sampling, seed=None)
    assert engine.sample([prompt], unseeded)[0].ids != engine.sample([prompt], unseeded)[0].ids


@pytest.mark.parametrize("use_compiled", [True, False])
def test_copies_of_a_prompt_are_read_once_and_are_as_alone_to_the_bit(model, tokenizer, use_compiled):
    """A group of rollouts: all come at once, and before any block of theirs is known."""
    [prompt] = prompts_of([100])
    sampling = Sampling(max_tokens=6, temperature=1.0)

    def read(engine: Engine, seeds: list[int]):
        tokens, logits = [], engine._runner.logits
        engine._runner.logits = lambda pieces: (
            tokens.extend(map(len, [p.ids for p in pieces])) or logits(pieces)
        )
        requests = [engine.submit(prompt, replace(sampling, seed=seed)) for seed in seeds]
        done = {}
        while len(done) < len(seeds):
            done |= {delta.request: delta.completion for delta in engine.step() if delta.completion}
        return [done[request] for request in requests], sum(tokens)

    def made() -> Engine:
        return Engine(model, tokenizer, stop_ids=(), use_compiled=use_compiled)

    together, tokens = read(made(), list(range(8)))
    assert tokens == 100 + 7 * (100 - 96) + 8 * 5
    for seed, completion in enumerate(together):
        [alone], _ = read(made(), [seed])
        if use_compiled:
            assert completion == alone
        else:  # rows of several lengths are padded, which changes the order of sums
            assert completion.ids == alone.ids
            assert completion.logprobs == pytest.approx(alone.logprobs, abs=1e-5)


def test_stop_ids_and_stop_strings(engine, tokenizer):
    prompt = tokenizer.encode("The capital")
    [free] = engine.sample([prompt], Sampling(max_tokens=40, temperature=1.0, seed=11))
    at = 5
    [by_id] = engine.sample(
        [prompt], Sampling(max_tokens=40, temperature=1.0, seed=11, stop_ids=(free.ids[at],))
    )
    first = free.ids.index(free.ids[at])
    assert by_id.ids == free.ids[: first + 1] and by_id.finish_reason == "stop"
    assert by_id.text == tokenizer.decode(free.ids[:first], skip_special=True)
    stop = free.text[4:7]
    [by_text] = engine.sample(
        [prompt], Sampling(max_tokens=40, temperature=1.0, seed=11, stop=("never", stop))
    )
    assert by_text.text == free.text[: free.text.index(stop)] and by_text.finish_reason == "stop"
    assert by_text.ids == free.ids[: len(by_text.ids)]


def test_the_end_of_a_turn_stops_by_default(model, tokenizer):
    [prompt] = prompts_of([4])
    (first, *_), _ = naive(model, prompt, 1)
    engine = Engine(model, tokenizer, stop_ids=[first])
    [done] = engine.sample([prompt], GREEDY)
    assert done.ids == (first,) and done.text == "" and done.finish_reason == "stop"
    assert Engine(model, tokenizer).stop_ids == {tokenizer.end_of_turn_id, tokenizer.end_of_text_id}


@pytest.mark.parametrize("speculate", [None, Speculation(kind="ngram")])
def test_the_models_own_end_can_be_put_off_or_passed_over(model, tokenizer, speculate, monkeypatch):
    monkeypatch.setattr("modelwright.inference.speculate.Pace.cost", lambda self, requests: 0.05)
    [prompt] = prompts_of([12])
    free = Engine(model, tokenizer, stop_ids=()).sample([prompt], Sampling(max_tokens=30))[0]
    end = free.ids[2]
    engine = Engine(model, tokenizer, stop_ids=(end,), speculate=speculate)

    def ask(**settings):
        return engine.sample([prompt], Sampling(max_tokens=30, **settings))[0]

    assert ask().ids == free.ids[:3]
    assert ask(ignore_eos=True).ids == free.ids
    assert ask(ignore_eos=True, stop_ids=(end,)).ids == free.ids[:3]
    late = ask(min_tokens=10, stop_ids=(free.ids[1], 10**6))
    assert late.ids[0] == free.ids[0] and not {end, free.ids[1]} & set(late.ids[:9]) and len(late.ids) >= 10
    text = ask(ignore_eos=True).text
    stop = text[:2]
    assert ask(ignore_eos=True, stop=(stop,)).text == ""
    passed = ask(ignore_eos=True, stop=(stop,), min_tokens=8)
    assert passed.text.startswith(stop) and len(passed.ids) >= 8


def test_a_stream_that_somebody_cancels_ends_and_leaves_nothing(engine, tokenizer):
    prompt, sampling = tokenizer.encode("Wien"), Sampling(max_tokens=60, temperature=1.5, seed=5)
    seen = [engine.cancel(delta.request) for delta in engine.stream(prompt, sampling)]
    assert len(seen) == 1 and seen[0].finish_reason == "cancelled"
    given_up = engine.stream(prompt, sampling)
    next(given_up)
    engine.sample([prompt], sampling)  # turns the crank for both
    given_up.close()
    assert engine.step() == []


def test_streamed_pieces_make_the_text(engine, tokenizer):
    sampling = Sampling(max_tokens=60, temperature=1.5, seed=5, top_logprobs=3)
    prompt = tokenizer.encode("Wien")
    [whole] = engine.sample([prompt], sampling)
    deltas = list(engine.stream(prompt, sampling))
    assert "".join(delta.text for delta in deltas) == whole.text
    assert tuple(token for delta in deltas for token in delta.ids) == whole.ids
    assert deltas[-1].completion == whole
    assert all(len(delta.top_logprobs[0]) == 3 for delta in deltas)
    assert all(row[0][1] >= row[1][1] >= row[2][1] for row in whole.top_logprobs)
    own = [
        (dict(row)[id_], each)
        for id_, each, row in zip(whole.ids, whole.logprobs, whole.top_logprobs, strict=True)
        if id_ in dict(row)
    ]
    assert own and all(listed == each for listed, each in own)


def test_giving_a_stream_up_frees_its_row(engine, tokenizer):
    stream = engine.stream(tokenizer.encode("Wien"), Sampling(max_tokens=100))
    next(stream)
    stream.close()
    assert not engine._scheduler.busy


def test_a_cancelled_request_keeps_what_it_has(engine):
    [prompt] = prompts_of([4])
    request = engine.submit(prompt, Sampling(max_tokens=100))
    waiting = [engine.submit(prompt, GREEDY) for _ in range(9)]
    for _ in range(3):
        engine.step()
    cancelled = engine.cancel(request)
    assert cancelled is not None and cancelled.finish_reason == "cancelled" and len(cancelled.ids) == 3
    never_ran = engine.cancel(waiting[-1])
    assert never_ran is not None and never_ran.ids == () and never_ran.text == ""
    assert engine.cancel(request) is None


def test_log_probabilities_are_the_models_own(model, engine):
    """Temperature and filters change what is drawn, not what is reported."""
    [prompt] = prompts_of([9])
    [done] = engine.sample([prompt], Sampling(max_tokens=10, temperature=0.3, top_k=3, seed=1))
    [scores] = engine.score([[*prompt, *done.ids]])
    assert done.logprobs == pytest.approx(scores[len(prompt) - 1 :], abs=1e-5)


def test_scores_do_not_depend_on_the_batch(model, engine):
    sequences = [*prompts_of([2, 150, 1, 17, 90, 17, 3]), []]
    scores = engine.score(sequences)
    for ids, score in zip(sequences, scores, strict=True):
        assert len(score) == max(len(ids) - 1, 0)
        if score:
            with torch.no_grad():
                logprobs = model(torch.tensor([ids[:-1]])).logits()[0].log_softmax(-1)
            expected = logprobs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])]
            assert score == pytest.approx(expected.tolist(), abs=1e-5)


def test_scores_in_small_slices_are_the_same(engine, monkeypatch):
    sequences = prompts_of([20, 60, 7])
    expected = engine.score_with_top(sequences, top=2)
    monkeypatch.setattr("modelwright.inference.scoring.MAX_LOGITS", 320 * 3)
    monkeypatch.setattr("modelwright.inference.scoring.MAX_TOKENS", 60)
    for got, wanted in zip(engine.score_with_top(sequences, top=2), expected, strict=True):
        assert got.logprobs == pytest.approx(wanted.logprobs, abs=1e-5)
        assert [[token for token, _ in row] for row in got.top] == [[t for t, _ in row] for row in wanted.top]


def test_new_weights_count_and_are_versioned(make_model, tokenizer):
    engine = Engine(make_model(seed=1), tokenizer)
    other = make_model(seed=2)
    [prompt] = prompts_of([8])
    expected = Engine(other, tokenizer).sample([prompt], GREEDY)[0]
    engine.update_weights(other.state_dict(), version=4)
    [done] = engine.sample([prompt], GREEDY)
    assert done.ids == expected.ids and done.policy_version == 4
    engine.submit(prompt, GREEDY)
    with pytest.raises(RuntimeError, match="stale"):
        engine.update_weights(other.state_dict(), version=5)


def test_the_next_token_distribution(model, engine):
    [prompt] = prompts_of([8])
    raw = engine.next_token_distribution(prompt)
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits()[0, -1].softmax(-1)
    torch.testing.assert_close(raw, expected)
    top = engine.next_token_distribution(prompt, Sampling(temperature=1.0, top_k=5))
    assert int((top > 0).sum()) == 5 and float(top.sum()) == pytest.approx(1)


def test_bfloat16_and_a_model_with_more_rows_than_tokens(make_model, tokenizer):
    model = make_model(vocab_size=400)
    model.compute_dtype = torch.bfloat16
    done = Engine(model, tokenizer).sample(prompts_of([5, 9]), Sampling(max_tokens=8, temperature=1.0))
    assert all(one.logprobs for one in done)


@pytest.mark.parametrize(
    ("prompt", "sampling", "words"),
    [
        ([], GREEDY, "empty"),
        ([5] * 160, GREEDY, "160 tokens"),
        ([5, 320], GREEDY, "between 0 and 319"),
        ([5], Sampling(top_p=0.0), "top_p"),
        ([5], Sampling(temperature=float("nan")), "temperature"),
        ([5], Sampling(max_tokens=0), "max_tokens"),
        ([5], Sampling(stop=("",)), "stop"),
        ([5], Sampling(max_tokens=4, min_tokens=5), "min_tokens"),
        ([5], Sampling(min_tokens=1, structure=Structure("json_object", "")), "structure"),
    ],
)
def test_wrong_requests_are_refused(engine, prompt, sampling, words):
    with pytest.raises(UserError, match=words):
        engine.sample([prompt], sampling)
    assert not engine._scheduler.busy


def test_too_long_to_score(engine):
    with pytest.raises(PromptTooLong, match="161 tokens"):
        engine.score([[4] * 161])


def test_broken_weights_are_named(make_model, tokenizer):
    model = make_model()
    with torch.no_grad():
        model.head[5] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        Engine(model, tokenizer).sample([[4, 5]], GREEDY)

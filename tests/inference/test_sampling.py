"""The draw against a plain reference: the distribution it draws from, and what it draws, both by numbers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import UserError
from modelwright.base.schema import Sampling
from modelwright.inference.penalties import Penalties
from modelwright.inference.sampling import (
    BrokenModel,
    Settings,
    check,
    choose,
    filtered,
    seed_of_copy,
    stages,
    streams,
    uniforms,
)
from modelwright.kernels import draw, native

DRAWS = 20_000


def reference(
    logits: list[float],
    s: Sampling,
    prompt: tuple[int, ...] = (),
    answer: tuple[int, ...] = (),
    allowed: list[bool] | None = None,
) -> np.ndarray:
    """The distribution that is drawn from, one rule after the other, in fp64."""
    x = [float(value) for value in logits]
    for token in {*prompt, *answer}:
        x[token] = x[token] / s.repetition_penalty if x[token] > 0 else x[token] * s.repetition_penalty
    for token in set(answer):
        x[token] -= s.frequency_penalty * answer.count(token) + s.presence_penalty
    for token, bias in s.logit_bias:
        x[token] += bias
    if allowed is not None:
        x = [value if good else -math.inf for value, good in zip(x, allowed, strict=True)]
    order = sorted((i for i, value in enumerate(x) if value > -math.inf), key=lambda i: (-x[i], i))
    if s.temperature == 0:
        return np.eye(len(x))[order[0]]
    weights = {i: math.exp((x[i] - x[order[0]]) / s.temperature) for i in order}
    order = order[: s.top_k] if s.top_k else order
    total, mass, kept = sum(weights[i] for i in order), 0.0, []
    for i in order:
        if s.top_p < 1 and mass >= s.top_p * total:
            break
        kept.append(i)
        mass += weights[i]
    kept = [i for i in kept if weights[i] >= s.min_p]
    found = np.zeros(len(x))
    found[kept] = [weights[i] for i in kept]
    return found / found.sum()


def logits_of(rows: int, vocab: int = 12, scale: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(3)) * scale


def of(
    samplings: list[Sampling], vocab: int, seeds: range | None = None, **penalties: list[Penalties | None]
) -> Settings:
    return Settings.of(samplings, seeds or range(len(samplings)), vocab, "cpu", **penalties)


VOCAB = 40
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 17, 99]),
    top_p=st.sampled_from([1.0, 0.03, 0.45, 0.91, 0.999]),
    min_p=st.sampled_from([0.0, 0.04, 0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.7]),
    presence_penalty=st.sampled_from([0.0, 0.6, -0.4]),
    frequency_penalty=st.sampled_from([0.0, 0.3, -0.2]),
    logit_bias=st.sampled_from([(), ((2, 5.0),), ((2, -100.0), (7, 1.5), (39, 2.5))]),
    top_logprobs=st.just(VOCAB),
)
TOKENS = st.lists(st.integers(0, VOCAB - 1), max_size=12).map(tuple)
ROWS = st.tuples(
    st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=VOCAB, max_size=VOCAB),
    SAMPLINGS,
    TOKENS,
    TOKENS,
    st.none() | st.sets(st.integers(0, VOCAB - 1), min_size=1, max_size=9),
)


@pytest.mark.parametrize("likely", [256, 5, 1])
@given(rows=st.lists(ROWS, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_every_combination_equals_the_reference(likely, rows):
    """Logits are quarters, so that many are equal: the rule for ties is tested too."""
    logits = torch.tensor([row[0] for row in rows])
    penalties = [Penalties.of(sampling, prompt, answer) for _, sampling, prompt, answer, _ in rows]
    columns = of([row[1] for row in rows], VOCAB, penalties=penalties)
    masks = {
        i: torch.tensor([token in row[4] for token in range(VOCAB)]) for i, row in enumerate(rows) if row[4]
    }
    expected = np.stack(
        [
            reference(own, sampling, prompt, answer, masks[i].tolist() if i in masks else None)
            for i, (own, sampling, prompt, answer, _) in enumerate(rows)
        ]
    )
    choices = [choose(logits, columns, [0] * len(rows), masks)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modelwright.kernels.draw.LIKELY", likely)
        np.testing.assert_allclose(filtered(logits, columns, masks), expected, atol=2e-6)
        patch.setattr(native, "usable", lambda *tensors: False)
        choices.append(choose(logits, columns, [0] * len(rows), masks))
    own = logits.log_softmax(-1)
    for choice in choices:
        assert choice.top is not None and choice.top_sampler is not None
        for row, token in enumerate(choice.ids):
            listed = dict(choice.top_sampler[row])
            shares = [math.exp(listed.get(i, -math.inf)) for i in range(VOCAB)]
            np.testing.assert_allclose(shares, expected[row], atol=2e-6)
            assert choice.sampler_logprobs[row] == pytest.approx(math.log(expected[row][token]), abs=1e-5)
            assert choice.logprobs[row] == pytest.approx(float(own[row, token]), abs=1e-5)
            assert dict(choice.top[row]) == pytest.approx(dict(enumerate(own[row].tolist())), abs=1e-5)


CASES = [
    (Sampling(temperature=1.0), 12),
    (Sampling(temperature=0.6), 12),
    (Sampling(temperature=2.5, top_k=4), 12),
    (Sampling(temperature=1.0, top_p=0.7), 12),
    (Sampling(temperature=1.2, min_p=0.2), 12),
    (Sampling(temperature=1.5, top_k=9, top_p=0.8, min_p=0.15), 12),
    (Sampling(temperature=1.0, top_k=1), 12),
    (Sampling(temperature=1.0, top_p=1e-6), 12),
    (Sampling(temperature=1.0, top_p=0.9), 3001),
    (Sampling(temperature=1.6, top_k=500, min_p=0.001), 3001),
    (Sampling(temperature=1.0, repetition_penalty=1.5, frequency_penalty=0.4, logit_bias=((3, 1.0),)), 12),
]


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize(("case", "vocab"), CASES)
def test_draws_follow_the_distribution(case, vocab):
    """Chi-square over many seeds; the bound is about the 1 - 1e-6 quantile (Wilson-Hilferty)."""
    logits, prompt, answer = logits_of(1, vocab), (1, 2), (3, 3, 4)
    penalties = [Penalties.of(case, prompt, answer)]
    draws = DRAWS if vocab < 100 else 3000
    drawn: list[int] = []
    for first in range(0, draws, 1000):
        columns = of([case] * 1000, vocab, range(first, first + 1000), penalties=penalties * 1000)
        drawn += choose(logits.repeat(1000, 1), columns, [0] * 1000).ids
    expected = reference(logits[0].tolist(), case, prompt, answer) * draws
    counts = np.bincount(drawn, minlength=vocab)
    assert counts[expected == 0].sum() == 0
    often = expected >= 5
    sums = [(counts[often], expected[often])]
    if expected[~often].sum() >= 5:
        sums.append((counts[~often].sum(keepdims=True), expected[~often].sum(keepdims=True)))
    found, hoped = (np.concatenate(column) for column in zip(*sums, strict=True))
    if freedom := len(found) - 1:
        chi_square = float(((found - hoped) ** 2 / hoped).sum())
        assert chi_square < freedom * (1 - 2 / (9 * freedom) + 4.75 * math.sqrt(2 / (9 * freedom))) ** 3


def test_both_paths_draw_the_same():
    """They differ in the last bits of exp; a draw that falls between takes a neighbour."""
    if native.library(torch.float32) is None:
        pytest.skip("no C++ compiler here")
    cases = [
        Sampling(temperature=1.0),
        Sampling(temperature=0.7, top_p=0.9),
        Sampling(temperature=1, top_k=50),
    ]
    logits = logits_of(4, 8192, scale=3.0).repeat(16, 1)
    different = 0
    for case in cases:
        columns = of([case] * 64, 8192)
        for count in range(12):
            fast = choose(logits, columns, [count] * 64).ids
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(native, "usable", lambda *tensors: False)
                plain = choose(logits, columns, [count] * 64).ids
            different += sum(a != b for a, b in zip(fast, plain, strict=True))
    assert different <= 2  # of 2304


@pytest.mark.usefixtures("each_path")
def test_a_request_draws_the_same_whatever_else_is_in_the_batch():
    vocab, cases = 300, [case for case, _ in CASES] + [Sampling(temperature=0)]
    logits = logits_of(len(cases), vocab)
    penalties = [Penalties.of(case, (1, 2), (3,)) for case in cases]
    mask = torch.arange(vocab) % 3 == 0
    columns = of(cases, vocab, penalties=penalties)
    together = choose(logits, columns, range(len(cases)), {0: mask})
    for row, case in enumerate(cases):
        column = of([case], vocab, range(row, row + 1), penalties=[penalties[row]])
        alone = choose(logits[row : row + 1], column, [row], {0: mask} if row == 0 else None)
        assert alone.ids[0] == together.ids[row]
        assert alone.sampler_logprobs[0] == pytest.approx(together.sampler_logprobs[row], abs=1e-6)


@pytest.mark.usefixtures("each_path")
def test_copies_differ_and_logits_are_left_alone():
    case = Sampling(temperature=1.0, presence_penalty=1.0, logit_bias=((5, -100.0),))
    logits = logits_of(1, 1000, scale=0.5).repeat(8, 1)
    before = logits.clone()
    seeds = [seed_of_copy(7, copy) for copy in range(8)]
    columns = Settings.of([case] * 8, seeds, 1000, "cpu", [Penalties.of(case, ())] * 8)
    assert len(set(choose(logits, columns, [0] * 8).ids)) > 5
    assert torch.equal(logits, before)


def test_penalties_grow_with_the_answer():
    """Settings made once see what is drawn later, and that is what counting anew would give."""
    case = Sampling(temperature=1.0, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.25)
    grown = Penalties.of(case, (1, 2))
    assert grown is not None
    columns = of([case], 12, penalties=[grown])
    for token in (2, 5, 5):
        grown.add(token)
    expected = reference(logits_of(1)[0].tolist(), case, (1, 2), (2, 5, 5))
    np.testing.assert_allclose(filtered(logits_of(1), columns)[0], expected, atol=1e-6)


def test_nothing_is_kept_for_requests_without_penalties():
    assert Penalties.of(Sampling(temperature=1.0, top_p=0.5), (1, 2, 3)) is None
    logits = logits_of(2)
    assert of([Sampling()] * 2, 12, penalties=[None, None]).edited(logits) is logits


@pytest.mark.usefixtures("each_path")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_cannot_be_drawn_is_its_rows_fault(temperature):
    columns = of([Sampling(temperature=temperature, seed=1)] * 2, 12)
    whole = choose(logits_of(2), columns, [0, 0])
    assert whole.fault(0) is whole.fault(1) is None
    choice = choose(logits_of(2), columns, [0, 0], {1: torch.zeros(12, dtype=torch.bool)})
    assert isinstance(choice.fault(1), UserError) and "no token" in str(choice.fault(1))
    assert choice.fault(0) is None and choice.ids[0] == whole.ids[0]
    for broken in (math.nan, math.inf):
        logits = logits_of(2)
        logits[1, 3] = broken
        choice = choose(logits, columns, [0, 0])
        assert isinstance(choice.fault(1), BrokenModel) and "not finite" in str(choice.fault(1))
        assert choice.fault(0) is None and choice.ids[0] == whole.ids[0]


def test_the_stages_lead_from_the_model_to_the_draw():
    case = Sampling(temperature=0.7, top_k=8, top_p=0.9, min_p=0.1, presence_penalty=1.0, max_tokens=3)
    [logits] = logits_of(1)
    found = stages(logits, case, (1,), (2, 3))
    assert [stage.name for stage in found] == [
        *("model", "penalties and bias", "temperature", "top-k", "top-p", "min-p")
    ]
    torch.testing.assert_close(found[0].probabilities, logits.softmax(-1))
    last = reference(logits.tolist(), case, (1,), (2, 3))
    np.testing.assert_allclose(found[-1].probabilities, last, atol=1e-6)
    without = reference(logits.tolist(), replace(case, top_p=1.0, min_p=0.0), (1,), (2, 3))
    np.testing.assert_allclose(found[3].probabilities, without, atol=1e-6)
    assert [stage.name for stage in stages(logits, Sampling(temperature=1, top_p=0.5), ())] == [
        "model",
        "top-p",
    ]
    assert [stage.name for stage in stages(logits, Sampling(top_p=0.5), ())] == ["model", "temperature"]


def test_a_stream_is_uniform_and_its_numbers_independent():
    places = np.arange(DRAWS, dtype=np.uint64)
    numbers, neighbours = (uniforms(streams([seed] * DRAWS), places) for seed in (12345, 12346))
    counts = torch.histc(numbers, bins=50, min=0, max=1)
    assert float(((counts - DRAWS / 50) ** 2 / (DRAWS / 50)).sum()) < 110
    for a, b in ((numbers[1:], numbers[:-1]), (numbers, neighbours)):
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.04
    assert float(numbers.min()) >= 0 and float(numbers.max()) < 1


@pytest.mark.usefixtures("each_path")
def test_extreme_temperatures():
    logits = logits_of(4)
    for cold in (1e-30, 5e-324):
        choice = choose(logits, of([Sampling(temperature=cold)] * 4, 12), [0] * 4)
        assert choice.ids == logits.argmax(-1).tolist()
    hot = choose(logits, of([Sampling(temperature=1e300, top_logprobs=12)] * 4, 12), [0] * 4)
    assert hot.sampler_logprobs == pytest.approx([-math.log(12)] * 4)


def test_negative_and_huge_seeds_are_seeds():
    assert len(set(streams([-1, 0, 1, 2**80 + 5]).tolist())) == 4


def test_copies_have_seeds_of_their_own():
    assert seed_of_copy(5, 0) == 5
    assert len({seed_of_copy(5, copy) for copy in range(20)}) == 20
    assert seed_of_copy(5, 3) == seed_of_copy(5, 3)
    assert seed_of_copy(None, 0) != seed_of_copy(None, 0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0, expected 0.01 to 100"),
        ({"repetition_penalty": 5e-324}, "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5, expected -2 to 2"),
        ({"frequency_penalty": math.nan}, "frequency_penalty"),
        ({"logit_bias": ((12, 1.0),)}, "token 12, expected 0 to 11"),
        ({"logit_bias": ((-1, 1.0),)}, "token -1"),
        ({"logit_bias": ((3, math.inf),)}, "token 3 is inf, expected -100 to 100"),
        ({"temperature": math.nan}, "temperature"),
        ({"top_p": math.nan}, "top_p"),
        ({"min_p": math.nan}, "min_p"),
    ],
)
def test_settings_without_meaning_are_refused(wrong, words):
    with pytest.raises(UserError, match=words):
        check(replace(Sampling(), **wrong), 12)


@given(
    temperature=st.sampled_from([0.0, 5e-324, 1e-30, 1.0, 2.0, 1e30]),
    repetition=st.sampled_from([0.01, 1.0, 100.0]),
    penalty=st.sampled_from([-2.0, 0.0, 2.0]),
    bias=st.sampled_from([-100.0, 0.0, 100.0]),
    top_p=st.sampled_from([5e-324, 0.5, 1.0]),
    scale=st.sampled_from([0.0, 1.0, 1e4]),
)
@settings(deadline=None)
def test_whatever_is_admitted_can_be_drawn(temperature, repetition, penalty, bias, top_p, scale):
    """A row that could not be drawn would end the step of everybody who is in it."""
    extreme = Sampling(
        temperature=temperature,
        repetition_penalty=repetition,
        presence_penalty=penalty,
        frequency_penalty=penalty,
        logit_bias=tuple((token, bias) for token in range(12)),
        top_p=top_p,
    )
    check(extreme, 12)
    logits = torch.linspace(-scale, scale, 12)[None]
    own = Penalties.of(extreme, range(12), [3] * 1000)
    found = choose(logits, Settings.of([extreme], [0], 12, "cpu", [own]), [0])
    assert math.isfinite(found.logprobs[0]) and math.isfinite(found.sampler_logprobs[0])


@pytest.mark.parametrize("counts", [[3, 0, 1, 20], [300, 7, 0, 400]])
def test_the_likeliest_are_listed_alike_by_both_versions(counts):
    """Few are found in one pass, many by sorting; equal ones go by id; what cannot be drawn is left out."""
    logits = torch.randn(4, 400, generator=torch.Generator().manual_seed(1)).mul(3).round(decimals=1)
    samplings = [
        Sampling(temperature=temperature, top_k=top_k, top_logprobs=count)
        for temperature, top_k, count in zip((1.0, 0.0, 0.5, 2.0), (0, 0, 5, 11), counts, strict=True)
    ]
    columns = Settings.of(samplings, range(4), 400, "cpu")
    numbers = uniforms(columns.streams, np.zeros(4, dtype=np.uint64))
    fused = draw.draw(logits, logits, columns.filters, numbers, columns.listed)
    plain = draw.reference(logits, logits, columns.filters, numbers, columns.listed)
    assert torch.equal(fused.best.logprobs.isfinite(), plain.best.logprobs.isfinite())
    torch.testing.assert_close(fused.best.logprobs, plain.best.logprobs, rtol=1e-5, atol=1e-5)
    for row, count in enumerate(counts):
        order = sorted(range(400), key=lambda token: (-logits[row, token], token))
        drawable = {0: 400, 1: 1, 2: 5, 3: 11}[row]
        for place, wanted in enumerate((order[:count], order[: min(count, drawable)])):
            found = [token for token in fused.best.ids[row, place].tolist() if token >= 0]
            assert found == wanted
            listed = dict(zip(found, fused.best.logprobs[row, place].tolist(), strict=False))
            own = int(fused.ids[row])
            assert own not in listed or listed[own] == float(fused.logprobs[row, place]), "to the bit"

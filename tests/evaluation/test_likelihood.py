from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from modelwright.base.schema import Completion, Sampling
from modelwright.evaluation import likelihood
from modelwright.evaluation.likelihood import as_interval, bits_per_byte, part_of_sums, score_choices

VOCABULARY = 8


@dataclass
class _Output:
    hidden: torch.Tensor
    head: torch.Tensor
    words: None = None
    auxiliary: None = None

    def logits(self) -> torch.Tensor:
        return self.hidden @ self.head.T


def uniform(ids: torch.Tensor) -> _Output:
    return _Output(torch.zeros(*ids.shape, 4), torch.ones(VOCABULARY, 4))


def bigram(ids: torch.Tensor) -> _Output:
    """A fixed next-token table: enough to tell right alignment from wrong."""
    table = torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(5))
    head = torch.randn(VOCABULARY, 16, generator=torch.Generator().manual_seed(6))
    return _Output(table[ids], head)


BYTES = [0, 1, 2, 3, 1, 1, 4, 2]  # token 0 is special: it stands for no text


def measure(model=bigram, documents=((1, 2, 3), (4, 5, 6, 7, 1)), max_tokens=10**6, window=64):
    return bits_per_byte(model, documents, BYTES, max_tokens=max_tokens, window=window)


def by_hand(documents: Sequence[Sequence[int]]) -> float:
    nats = size = 0.0
    for document in documents:
        losses = -torch.log_softmax(bigram(torch.tensor([document])).logits(), -1)[0]
        for place, token in enumerate(document[1:]):
            nats += float(losses[place, token]) if BYTES[token] else 0.0
            size += BYTES[token]
    return nats / size / math.log(2)


def test_a_model_that_knows_nothing_pays_the_log_of_the_vocabulary() -> None:
    found = measure(uniform, documents=[[1, 4, 5, 1]])
    assert found.value == pytest.approx(math.log2(VOCABULARY))
    assert (found.documents, found.tokens, found.bytes) == (1, 3, 3)


def test_value_is_the_ratio_of_the_sums_not_the_mean_of_ratios() -> None:
    documents = [[1, 2, 3], [4, 5, 6, 7, 1]]
    assert measure().value == pytest.approx(by_hand(documents), rel=1e-6)


def test_special_tokens_count_in_neither_sum() -> None:
    assert measure(documents=[[1, 2, 0]]).value == pytest.approx(by_hand([[1, 2]]), rel=1e-6)
    assert measure(documents=[[1, 2, 0]]).bytes == 2


def test_padding_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [[1 + (i * j) % 7 for j in range(2 + i)] for i in range(20)]
    expected = by_hand(documents)
    for rows, chunk in ((1, 3), (4, 7), (64, 100_000)):
        monkeypatch.setattr(likelihood, "ROWS_PER_BATCH", rows)
        monkeypatch.setattr(likelihood, "LOGITS_PER_CHUNK", chunk)
        assert measure(documents=documents).value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_processes_share_what_is_measured_and_run_equally_often(
    of: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(likelihood, "ROWS_PER_BATCH", 3)
    documents = [[1 + (i * j) % 7 for j in range(2 + i)] for i in range(20)]
    whole, calls = measure(documents=documents), list[int]()

    def counting(ids):
        calls.append(place)
        return bigram(ids)

    parts = list[dict[str, float]]()
    for place in range(of):
        shared = part_of_sums(counting, documents, BYTES, max_tokens=10**6, window=64, place=place, of=of)
        parts.append(shared)
    assert [calls.count(place) for place in range(of)] == [-(-7 // of)] * of
    nats, size = (sum(part[name] for part in parts) for name in ("nats", "bytes"))
    assert size == whole.bytes and nats / size / math.log(2) == pytest.approx(whole.value, rel=1e-12)


def test_long_documents_are_cut_and_every_token_counts_once() -> None:
    long = [1 + i % 7 for i in range(50)]
    found = measure(documents=[long], window=9)
    assert found.tokens == 49
    assert found.bytes == sum(BYTES[token] for token in long[1:])
    assert found.value == pytest.approx(by_hand([long[i : i + 9] for i in range(0, 49, 8)]), rel=1e-6)


def test_reading_stops_after_the_document_that_reaches_the_limit() -> None:
    seen = []

    def stream():
        for document in ([1, 2], [3, 4], [5, 6]):
            seen.append(document)
            yield document

    found = measure(documents=stream(), max_tokens=2)
    assert found.tokens == 2
    assert seen == [[1, 2], [3, 4]]


def test_interval_holds_the_value_and_equal_documents_have_none() -> None:
    found = as_interval(measure(documents=[[1 + (i * j) % 7 for j in range(9)] for i in range(12)]))
    assert found.low < found.mean < found.high
    assert found.n == 12
    equal = measure(documents=[[1, 2, 3]] * 5)
    assert equal.high - equal.low == pytest.approx(0, abs=1e-6)


def test_no_text_is_refused() -> None:
    with pytest.raises(ValueError, match="no document"):
        measure(documents=[[0], [], [3], [2, 0]])
    with pytest.raises(ValueError, match="no document"):
        part_of_sums(uniform, [[0], []], BYTES, max_tokens=10, window=8)


class _Scorer:
    """log p(token) = -token, so that expected sums are plain arithmetic."""

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        raise AssertionError("nothing is sampled here")

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-float(token) for token in ids[1:]] for ids in sequences]

    def update_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None: ...


def test_choices_are_scored_whole_and_per_byte() -> None:
    encode = {" a": [3], " long one": [2, 2]}.__getitem__
    (found,) = score_choices(_Scorer(), [[7, 7]], [[" a", " long one"]], encode)
    assert found.log_likelihoods == (-3.0, -4.0)
    assert found.per_byte == (-1.5, -4 / 9)
    assert found.best_plain == 0
    assert found.best == 1


def test_choices_of_several_prompts_do_not_mix() -> None:
    encode = {"x": [1], "y": [5]}.__getitem__
    found = score_choices(_Scorer(), [[1], [2, 3, 4]], [["x", "y"], ["y", "x", "x"]], encode)
    assert [row.best for row in found] == [0, 1]
    assert [len(row.per_byte) for row in found] == [2, 3]


def test_empty_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one token"):
        score_choices(_Scorer(), [[1]], [[""]], lambda text: [])


class _Largest(TorchDispatchMode):
    """The largest tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple) else (made,):
            self.numbers = max(self.numbers, each.numel() if isinstance(each, torch.Tensor) else 0)
        return made


@pytest.mark.parametrize("bound", [50_000, 3_000, 999])
def test_logits_stay_below_a_bound_however_wide_the_vocabulary(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 x 49 positions in a vocabulary of 1,000, at most so many at a time; one position at the least."""
    table = torch.randn(1000, 2, generator=torch.Generator().manual_seed(3))
    documents = torch.randint(1, 1000, (8, 50), generator=torch.Generator().manual_seed(4)).tolist()

    def score() -> float:
        def model(ids: torch.Tensor) -> _Output:
            return _Output(table[ids], table.flip(0))

        return bits_per_byte(model, documents, [1] * 1000, max_tokens=10**6, window=64).value

    whole = score()
    monkeypatch.setattr(likelihood, "LOGITS_PER_CHUNK", bound)
    with _Largest() as largest:
        found = score()
    assert largest.numbers <= max(bound, 2 * 1000) and found == pytest.approx(whole, rel=1e-6)

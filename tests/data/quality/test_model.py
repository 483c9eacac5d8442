from __future__ import annotations

import gzip
import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data import filters
from modelwright.data.quality.features import vector
from modelwright.data.quality.fit import fit, sigmoid
from modelwright.data.quality.model import Config, QualityModel
from modelwright.data.quality.roc import auc, auc_interval, calibration, roc

SEA = ["ship", "wave", "sail", "harbour", "captain", "storm"]
LAND = ["tree", "field", "horse", "barn", "farmer", "plough"]
BOTH = ["the", "of", "and", "a", "with", "was"]
SMALL = Config(bits=12, epochs=4, num_telling=8)


def texts(words: list[str], number: int, seed: int) -> list[str]:
    dice = random.Random(seed)
    return [" ".join(dice.choices(words + BOTH * 2, k=30)) for _ in range(number)]


@pytest.fixture(scope="module")
def model() -> QualityModel:
    return QualityModel.learn(texts(SEA, 120, 1), texts(LAND, 150, 2), SMALL)


def test_it_tells_what_it_learned_from_apart(model: QualityModel) -> None:
    assert model.about.auc == 1.0
    assert model.score("the captain and a storm with the ship") > 0.5 > model.score("the farmer with a horse")
    assert set(SEA) <= {ngram for ngram, weight in model.about.telling_good if weight > 0}
    assert set(LAND) <= {ngram for ngram, weight in model.about.telling_ordinary if weight < 0}
    assert len(model.about.held_out_good) == 24 and len(model.about.held_out_ordinary) == 30


def test_random_kinds_have_an_auc_of_a_half() -> None:
    found = QualityModel.learn(texts(BOTH, 400, 1), texts(BOTH, 400, 2), SMALL).about
    assert 0.35 < found.auc < 0.65 and found.auc_low < 0.5 < found.auc_high


def test_the_same_seed_learns_the_same(model: QualityModel) -> None:
    again = QualityModel.learn(texts(SEA, 120, 1), texts(LAND, 150, 2), SMALL)
    assert again.about == model.about
    assert np.array_equal(again.weights.bucket, model.weights.bucket)
    other = QualityModel.learn(texts(SEA, 120, 3), texts(LAND, 150, 2), SMALL)
    assert other.about.good_sha256 != model.about.good_sha256
    assert other.about.ordinary_sha256 == model.about.ordinary_sha256


def test_saved_and_loaded(model: QualityModel, tmp_path: Path) -> None:
    model.save(tmp_path / "q.safetensors")
    again = QualityModel.load(tmp_path / "q.safetensors")
    assert again.about == model.about
    for text in ("", "the captain", "日本 horse"):
        assert again.score(text) == model.score(text)
    content = (tmp_path / "q.safetensors").read_bytes()
    (tmp_path / "q.safetensors").write_bytes(content[:-100])
    with pytest.raises(DamagedFile, match="not a quality model"):
        QualityModel.load(tmp_path / "q.safetensors")
    with pytest.raises(UserError, match="no such file"):
        QualityModel.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("good", "ordinary", "says"),
    [
        (texts(SEA, 10, 1), texts(LAND, 100, 2), "at least 50 texts of each kind, received 10 good"),
        ([" "] * 100, texts(LAND, 100, 2), "received 0 good"),
        (texts(SEA, 50, 1), texts(LAND, 1001, 2), "at most 20:1"),
        (texts(SEA, 100, 1), texts(SEA, 100, 1), "100 texts are in both kinds"),
    ],
)
def test_sets_that_teach_nothing_are_refused(good: list[str], ordinary: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        QualityModel.learn(good, ordinary, SMALL)


def test_the_filter(model: QualityModel, tmp_path: Path) -> None:
    path = tmp_path / "q.safetensors"
    model.save(path)
    documents = [
        Document(text=t, id=sha256_text(t), source="a") for t in ("ship sail storm", "barn tree horse")
    ]

    def run(**settings: object) -> tuple[list[Document], list[Reason]]:
        _, step = filters.build({"name": "quality", "model": str(path), **settings})
        reasons: list[Reason] = []
        return list(step(iter(documents), lambda _, reason: reasons.append(reason))), reasons

    kept, (reason,) = run(min_score=0.5)
    assert [each.text for each in kept] == ["ship sail storm"] and kept[0].meta["quality"] > 0.5
    assert reason.rule == "low quality score" and isinstance(reason.value, float) and reason.value < 0.5
    assert len(run()[0]) == 2 and len(run(keep_share=1.0)[0]) >= 1
    with pytest.raises(ConfigError, match="not both"):
        run(min_score=0.5, keep_share=0.5)


def test_the_threshold_keeps_its_share(model: QualityModel) -> None:
    scores = np.array(model.about.held_out_ordinary)
    for share in (0.1, 0.5, 1.0):
        assert (scores >= model.threshold(share)).mean() == pytest.approx(share, abs=1 / len(scores))
    with pytest.raises(UserError, match="keep_share"):
        model.threshold(0)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200), st.integers(8, 20))
def test_vectors(text: str, bits: int) -> None:
    bucket, value = vector(text, bits)
    assert np.all(np.diff(bucket) > 0) and np.all((bucket >= 0) & (bucket < 1 << bits))
    assert len(value) == 0 or np.linalg.norm(value) == pytest.approx(1, abs=1e-5)
    assert np.array_equal(vector(text.upper().lower(), bits)[0], vector(text.upper(), bits)[0])


scores = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0]), min_size=1, max_size=12).map(np.array)


@settings(max_examples=100, deadline=None)
@given(scores, scores)
def test_auc_and_roc_by_counting(good: np.ndarray, ordinary: np.ndarray) -> None:
    pairs = [(g > o) + 0.5 * (g == o) for g in good for o in ordinary]
    assert auc(good, ordinary) == pytest.approx(np.mean(pairs))
    points = roc(good, ordinary)
    for threshold, false_share, true_share in points:
        assert false_share == pytest.approx(np.mean(ordinary >= threshold))
        assert true_share == pytest.approx(np.mean(good >= threshold))
    area = np.trapezoid([y for _, _, y in points], [x for _, x, _ in points])
    assert area == pytest.approx(auc(good, ordinary))
    assert sum(each.count for each in calibration(good, ordinary)) == len(good) + len(ordinary)


def test_interval_holds_the_auc() -> None:
    random = np.random.default_rng(0)
    good, ordinary = random.normal(1, 1, 200), random.normal(0, 1, 200)
    low, high = auc_interval(good, ordinary, seed=0)
    assert low < auc(good, ordinary) < high < low + 0.15
    assert auc_interval(good, ordinary, seed=0) == (low, high)


def test_fit_balances_kinds_of_unequal_number() -> None:
    row = (np.array([1]), np.array([1.0], np.float32))
    weights = fit([row] * 100, np.array([1.0] * 90 + [0.0] * 10, np.float32), 8, 50, 0.1, 0)
    assert sigmoid(float(weights.bucket[1]) + weights.bias) == pytest.approx(0.5, abs=0.1)


def test_novels_against_technical_pages(shared_data: Path) -> None:
    novels = pieces(
        pq.read_table(shared_data / "litbank_novels" / "novels-00000.parquet")["text"].to_pylist()[:9]
    )
    with gzip.open(shared_data / "sqlite_docs_html" / "pages.jsonl.gz", "rt", encoding="utf-8") as file:
        pages = pieces([re.sub(r"<[^>]*>", " ", json.loads(line)["html"]) for line in file])
    found = QualityModel.learn(novels[:400], pages[:400], Config(epochs=3)).about
    assert found.auc_low > 0.99


def test_the_order_of_sentences_is_not_seen(shared_data: Path) -> None:
    """What word pairs cannot tell, and a user should know: shuffled sentences look as good as the book."""
    novels = pieces(
        pq.read_table(shared_data / "litbank_novels" / "novels-00000.parquet")["text"].to_pylist()[:9]
    )
    random.Random(0).shuffle(novels)
    shuffled: list[str] = []
    for text in novels[400:800]:
        sentences = re.split(r"(?<=[.!?]) +", text)
        random.Random(0).shuffle(sentences)
        shuffled.append(" ".join(sentences))
    assert QualityModel.learn(novels[:400], shuffled, Config(epochs=3)).about.auc < 0.75


def pieces(whole: list[str]) -> list[str]:
    return [text[at : at + 2000] for text in whole for at in range(0, len(text), 2000)]

from __future__ import annotations

import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.data.dedup import minhash, native, normal
from modelwright.data.dedup.minhash import (
    NOTHING,
    Config,
    band_keys,
    estimated_jaccard,
    jaccard,
    shingles,
    signature,
    signatures,
)

ODD = [
    "",
    "x",
    " \n\t ",
    "one two three four",
    "one two three four five",
    "Ünïcode façade ŉ ǰ İstanbul ẞ ΟΔΟΣ",
    "3.14 1.2.3 1,000,000 .5 5. 1..2 ٣٫٤ १२३ 1\u0301\u03012 a1b2",
    "東京は日本の首都です。カタカナ ｶﾀｶﾅ 한국어 한국어 ไทยแลนด์ မြန်မာ",
    "a\0b\x7f\x85c\u00ad\u200bd\ufeff e\u0301 ≠ \U0001f44d\U000e0100 \U0010ffff 豈",
    "'--- !?» «don't» ™ ½ ²",
]


def texts_of(rng: random.Random, words: int, similarity: float) -> tuple[str, str]:
    """Two texts of about this likeness: a stretch of words in common, and a rest of each one's own."""

    def make(count: int) -> list[str]:
        return ["".join(rng.choices(string.ascii_lowercase, k=8)) for _ in range(count)]

    # n shingles each, of which m are shared: s = m / (2n - m)
    shared = round((words - 4) * 2 * similarity / (1 + similarity)) + 4
    common, rest = make(shared), words - shared
    return " ".join(common + make(rest)), " ".join(common + make(rest))


def test_normalised_text() -> None:
    assert normal.normalise("Héllo,  WÖRLD! don't\t-- 3.14, 1.2.3") == "hello world don t 0 0 0"
    assert normal.normalise("東京 abc") == "東 京 abc"
    assert normal.normalise("e\u0301") == normal.normalise("é") == normal.normalise("É") == "e"
    assert normal.normalise(ODD[2]) == ""


@settings(deadline=None, max_examples=80)
@given(st.text(), st.integers(1, 6))
def test_both_paths_agree_to_the_bit(text: str, ngram: int) -> None:
    if native.library() is None:
        pytest.skip("no compiler here")
    config = Config(ngram=ngram, bands=3, rows=2)
    encoded = [text.encode(), (text * 3).encode(), *(odd.encode() for odd in ODD)]
    assert np.array_equal(minhash._compiled(encoded, config), minhash._plain(encoded, config))


def test_both_paths_agree_on_every_code_point() -> None:
    if native.library() is None:
        pytest.skip("no compiler here")
    points = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    texts = ["x1".join(points[start : start + 999]).encode() for start in range(0, len(points), 999)]
    config = Config(ngram=2, bands=1, rows=2)
    assert np.array_equal(minhash._compiled(texts, config), minhash._plain(texts, config))


def test_both_paths_agree_on_long_texts() -> None:
    if native.library() is None:
        pytest.skip("no compiler here")
    rng = random.Random(0)
    text = " ".join("".join(rng.choices("abcdé 12", k=7)) for _ in range(20_000)).encode()
    line = b"word" * 500_000  # one word of 2 MB
    for config in (Config(), Config(ngram=1), Config(ngram=1500, bands=2, rows=1)):
        assert np.array_equal(minhash._compiled([text, line], config), minhash._plain([text, line], config))


def test_broken_bytes_stay_within_bounds() -> None:
    if native.library() is None:
        pytest.skip("no compiler here")
    broken = [bytes([byte]) for byte in range(256)] + [b"1\xf4\xbf\xbf\xbf", b"\xf0\x9f", b"1.\xe0"]
    first = minhash._compiled(broken, Config())
    assert np.array_equal(first, minhash._compiled(broken, Config()))


def test_signatures_are_minima_over_the_runs(path: str) -> None:
    config = Config(bands=2, rows=3)
    text = "the quick brown fox jumps over the lazy dog again"
    alone = [signature(" ".join(text.split()[i : i + 5]), config) for i in range(6)]
    assert np.array_equal(signature(text, config), np.min(alone, axis=0))
    assert signature(text, config).shape == (6,) and signature(text, config).dtype == np.uint64
    assert len(shingles(text, 5)) == 6 and len(shingles("one two", 5)) == 1


def test_texts_without_words_are_like_nothing(path: str) -> None:
    config = Config()
    made = signatures(["", "!?", "a word"], config)
    assert np.all(made[:2] == NOTHING) and not np.any(made[2] == NOTHING)
    keys = band_keys(made, config)
    assert keys.shape == (3, 14) and np.all(keys[:2] == NOTHING) and not np.any(keys[2] == NOTHING)
    assert signatures([], config).shape == (0, 112)
    assert jaccard("", "!", config) == 0 and jaccard("a b", "A, b", config) == 1


def test_band_keys_differ_where_a_row_differs() -> None:
    config = Config(bands=3, rows=4)
    one = signature("some words that make a signature of their own", config)
    for place in range(12):
        other = one.copy()
        other[place] += np.uint64(1)
        assert (band_keys(one, config) != band_keys(other, config)).tolist() == [
            band == place // 4 for band in range(3)
        ]
    assert np.array_equal(band_keys(np.stack([one, one]), config)[1], band_keys(one, config))


def test_seeds_give_other_orders_of_the_same_quality() -> None:
    rng = random.Random(3)
    pair = texts_of(rng, 400, 0.6)
    found = [float(estimated_jaccard(*signatures(pair, Config(seed=seed, bands=32)))) for seed in range(6)]
    assert len(set(found)) > 1 and np.mean(found) == pytest.approx(jaccard(*pair, Config()), abs=0.04)


def test_the_threshold_is_fineweb_s() -> None:
    assert Config().threshold == pytest.approx(0.719, abs=0.001)
    assert Config().chance(0.8) == pytest.approx(0.924, abs=0.001)
    assert Config().hashes == 112


@pytest.mark.parametrize("similarity", [0.2, 0.5, 0.8, 0.95])
def test_estimates_are_as_good_as_datasketch_s(similarity: float) -> None:
    datasketch = pytest.importorskip("datasketch")
    rng = random.Random(int(similarity * 100))
    config = Config()
    ours, theirs = [], []
    for _ in range(40):
        pair = texts_of(rng, 200, similarity)
        true = jaccard(*pair, config)
        assert true == pytest.approx(similarity, abs=0.03)
        sketches = []
        for text in pair:
            words = text.split()
            sketches.append(datasketch.MinHash(num_perm=112, seed=1))
            sketches[-1].update_batch([" ".join(words[i : i + 5]).encode() for i in range(len(words) - 4)])
        ours.append(float(estimated_jaccard(*signatures(pair, config))) - true)
        theirs.append(sketches[0].jaccard(sketches[1]) - true)
    deviation = np.sqrt(similarity * (1 - similarity) / 112)  # of one estimate; 40 are not independent
    for errors in (ours, theirs):
        assert abs(np.mean(errors)) < deviation
        assert np.std(errors) < 1.5 * deviation


def test_recall_is_the_bands_law() -> None:
    rng = random.Random(1)
    config = Config()
    for similarity, tolerance in ((0.5, 0.07), (0.7, 0.12), (0.8, 0.07), (0.9, 0.02)):
        pairs = [texts_of(rng, 150, similarity) for _ in range(200)]
        keys = band_keys(signatures([text for pair in pairs for text in pair], config), config)
        recall = np.mean(np.any(keys[::2] == keys[1::2], axis=1))
        expected = np.mean([config.chance(jaccard(*pair, config)) for pair in pairs[:50]])
        assert recall == pytest.approx(expected, abs=tolerance), similarity
    keys = band_keys(signatures([texts_of(rng, 100, 0.0)[0] for _ in range(1000)], config), config)
    assert all(len(np.unique(keys[:, band])) == 1000 for band in range(14))  # no false candidates


def test_real_texts_against_datasketch(shared_data) -> None:
    datasketch = pytest.importorskip("datasketch")
    import pyarrow.parquet as pq

    file = pq.ParquetFile(shared_data / "litbank_novels" / "novels-00000.parquet")
    novel = next(file.iter_batches(1, columns=["text"])).to_pylist()[0]["text"][:200_000]
    rng = random.Random(5)
    errors, differences = [], []
    for start in range(0, 120_000, 4000):
        words = normal.normalise(novel[start : start + 4000]).split()
        edited = [word if rng.random() > 0.02 else "changed" for word in words]
        pair = " ".join(words), " ".join(edited)
        sketches = []
        for text in (words, edited):
            sketches.append(datasketch.MinHash(num_perm=112, seed=1))
            sketches[-1].update_batch([" ".join(text[i : i + 5]).encode() for i in range(len(text) - 4)])
        true = jaccard(*pair, Config())
        estimate = float(estimated_jaccard(*signatures(pair, Config())))
        errors.append(abs(estimate - true))
        differences.append(abs(sketches[0].jaccard(sketches[1]) - true))
    assert np.mean(errors) < 0.05 and np.mean(errors) < 2 * np.mean(differences)

"""The compiled encoder and learner against the `tokenizers` library: not one id, not one merge differs."""

from __future__ import annotations

import gzip
import json
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers

from modelwright.base.errors import ConfigError
from modelwright.tokenizer import bpe, native
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import learn, learn_plainly, special_tokens
from modelwright.tokenizer.patterns import PATTERN_NAMES, REGEX, PatternName, content_of, cut_of

pytestmark = pytest.mark.skipif(native.library() is None, reason="the C++ file cannot be compiled here")

TRICKY = " \n\r\t'sStTrReEvVlLmMdDſ019²٣漢é\u0301\u00a0\u2028\u0085<|>_-.!a\u200b😀\0İß"
WORDS = ["<|im_end|>", "don't", "I'LL", "'ſt", "\r\n\r\n", "   ", "12345", " \n x", "שָׁלוֹם", "ไทย", "\x00"]
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
        st.text(st.sampled_from(TRICKY), max_size=20),
        st.sampled_from(WORDS),
    ),
    max_size=6,
).map("".join)
SAMPLE = (
    "The year 2024's 12,345 naïve cafés, don't they?\n\n\tx = y ** 2\r\n    return 漢字かな 😀😀 Привет мир "
    "Straße 'twas <|im_end|> \n \n  aaaa aaaaaaa abababab\u00a0x" * 6
)


@cache
def tokenizer(pattern: PatternName) -> BPETokenizer:
    return learn([SAMPLE], 420, pattern=pattern)


def library_pieces(text: str, pattern: PatternName) -> list[str]:
    split = pre_tokenizers.Split(Regex(REGEX[pattern]), behavior="isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


@given(TEXT, st.sampled_from(PATTERN_NAMES))
@settings(max_examples=300, deadline=None)
def test_text_is_cut_as_the_pattern_says(text: str, pattern: PatternName) -> None:
    assert native.pieces(text, pattern) == library_pieces(text, pattern)


@given(TEXT, st.sampled_from(PATTERN_NAMES))
@settings(max_examples=300, deadline=None)
def test_ids_are_the_librarys(text: str, pattern: PatternName) -> None:
    assert tokenizer(pattern).encode(text) == tokenizer(pattern).encode_plainly(text)


@given(st.lists(TEXT, max_size=5), st.sampled_from(PATTERN_NAMES), st.integers(259, 300))
@settings(max_examples=60, deadline=None)
def test_vocabularies_are_the_librarys(texts: list[str], pattern: PatternName, size: int) -> None:
    texts = texts * 3
    ours, plain = learn(texts, size, pattern=pattern), learn_plainly(texts, size, pattern=pattern)
    assert ours._backend.to_str() == plain._backend.to_str()


def test_a_token_that_comes_about_in_two_ways() -> None:
    """The trainer merges a pair again when its parts come back by another way; so do we."""
    letters = "abc"
    texts = [" ".join(a + b + c + d for a in letters for b in letters for c in letters for d in "ab")] * 2
    for size in range(262, 330, 7):
        ours, plain = learn(texts, size), learn_plainly(texts, size)
        assert ours._backend.to_str() == plain._backend.to_str()


def test_real_text_of_every_script(shared_data: Path) -> None:
    with gzip.open(shared_data / "udhr" / "udhr_articles.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = ["\n".join(json.loads(line)["articles"])[:1500] for line in file]
    with gzip.open(shared_data / "sqlite_docs_html" / "pages.jsonl.gz", "rt", encoding="utf-8") as file:
        texts += [json.loads(next(file))["html"][:20_000] for _ in range(20)]
    for pattern in PATTERN_NAMES:
        ours = learn(texts[::7], 600, pattern=pattern)
        assert ours._backend.to_str() == learn_plainly(texts[::7], 600, pattern=pattern)._backend.to_str()
        ids, ends = ours.encode_arrays(texts)
        assert ids.dtype == np.uint32 and int(ends[-1]) == len(ids)
        library = ours._backend.encode_batch_fast(texts, add_special_tokens=False)
        assert ids.tolist() == [number for encoding in library for number in encoding.ids]
        for text in texts[::40]:
            assert native.pieces(text, pattern) == library_pieces(text, pattern)


@pytest.mark.parametrize("unit", ["a", "ab", "x" * 31, " ", "\n", "漢", "!", "7"])
def test_pieces_without_end_cost_no_more_than_others(unit: str) -> None:
    """Were a merge to read its whole piece, this would take hours."""
    text = unit * (300_000 // len(unit))
    ids = tokenizer("qwen2").encode(text)
    assert tokenizer("qwen2").decode(ids) == text
    assert ids[:50] == tokenizer("qwen2").encode_plainly(text[:20_000])[:50]
    learn([text], 300)


def test_the_cache_never_mixes_pieces_up() -> None:
    """More distinct pieces than the cache has places, twice over, and of every length about its limits."""
    texts = [" ".join(f"w{number * 7919 % 150_000}q" for number in range(150_000))]
    texts += [
        "".join("ab"[(n >> i) & 1] for i in range(length)) for n in range(40) for length in range(26, 36)
    ]
    ours = tokenizer("gpt-2")
    first, again = ours.encode_batch(texts), ours.encode_batch(texts)
    assert first == again
    assert first[1:] == [ours.encode_plainly(text) for text in texts[1:]]
    assert ours.decode(first[0]) == texts[0]


def test_classes_are_what_the_library_means() -> None:
    assert (native._ask_for_classes() == native.classes()).all()
    assert [int(native.classes()[ord(c)]) for c in "aß漢1²٣ \u00a0\n\r!_"] == [
        1,
        1,
        1,
        2,
        2,
        2,
        3,
        3,
        4,
        4,
        0,
        0,
    ]


def test_memory_is_bounded_by_forgetting_and_that_is_said() -> None:
    names = ("".join(letters) for letters in product("abcdefghijklm", repeat=3))
    texts = [f"rare{name} common words" for name in names]
    said: list[str] = []
    small = learn(texts, 300, max_pieces=500, warn=said.append)
    assert len(said) == 1 and "more than 500 distinct pieces" in said[0]
    assert " common" in small.decode(range(259, small.vocab_size))
    said.clear()
    learn(texts, 300, warn=said.append)
    assert said == []


def test_without_a_compiler_everything_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = tokenizer("llama-bpe")
    for module in ("modelwright.tokenizer.learn.library", "modelwright.tokenizer.bpe.library"):
        monkeypatch.setattr(module, lambda: None)
    plain = learn([SAMPLE], 420, pattern="llama-bpe")
    assert plain._backend.to_str() == ours._backend.to_str()
    assert plain._encoder is None and "tokenizers library" in plain.describe()
    assert plain.encode_batch([SAMPLE, "", "x y"]) == ours.encode_batch([SAMPLE, "", "x y"])


def test_surrogates_are_refused_by_both() -> None:
    with pytest.raises(UnicodeEncodeError):
        tokenizer("qwen2").encode("a\ud800b")


def test_what_a_pattern_means() -> None:
    assert native.pieces("12345", "qwen2") == list("12345")
    assert native.pieces("12345", "llama-bpe") == ["123", "45"]
    assert native.pieces("12345", "gpt-2") == ["12345"]
    for pattern in PATTERN_NAMES:
        *_, run, word = native.pieces("if x:\n        return", pattern)
        assert (run.lstrip("\n"), word) == (" " * 7, " return")
        cut = cut_of(content_of(tokenizer(pattern)._backend))
        assert cut is not None and cut.gguf_name == pattern


def test_a_pattern_that_is_not_ours_has_no_name_and_no_encoder() -> None:
    content = content_of(tokenizer("qwen2")._backend)
    assert cut_of(content | {"normalizer": {"type": "Lowercase"}}) is None
    split = content["pre_tokenizer"]["pretokenizers"][0]
    split["pattern"]["Regex"] += "|x"
    assert cut_of(content) is None
    made = BPETokenizer(bpe.tokenizers.Tokenizer.from_str(json.dumps(content)))
    assert made.cut is None and made.encode("a b") == made.encode_plainly("a b")
    whole = content_of(tokenizer("llama-bpe")._backend)
    whole["model"]["ignore_merges"] = False
    found = cut_of(whole)
    assert found is not None and found.gguf_name == "dbrx"


def test_special_tokens_keep_their_ids() -> None:
    names = special_tokens(["<|tool|>", "[THINK]"], reserved=2)
    assert names[3:] == ["<|tool|>", "[THINK]", "<|reserved_0|>", "<|reserved_1|>"]
    for size in (270, 300):
        made = learn([SAMPLE], size, special=names)
        assert [made.special_ids[name] for name in names] == list(range(7))
        assert made.vocab_size == size
        assert made._backend.to_str() == learn_plainly([SAMPLE], size, special=names)._backend.to_str()
        assert not set(made.encode("<|tool|> [THINK] <|reserved_1|>")) & set(range(7))


@pytest.mark.parametrize("name", ["word", "<|im_end|>", "<|a b|>", "", "<<>>"])
def test_a_special_token_that_text_could_become_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="special token"):
        special_tokens([name])

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import QWEN2_PATTERN, SMALLEST_VOCABULARY, learn
from modelwright.tokenizer.patterns import byte_level_backend

TEXTS = ["the cat sat on the mat, and the cat ate the hat. " * 20, "Ein Straßenbähnchen für 12 Füchse. " * 9]


@pytest.fixture(scope="module")
def tokenizer() -> BPETokenizer:
    return learn(TEXTS, 300)


def test_the_vocabulary_is_special_tokens_bytes_merges(tokenizer: BPETokenizer) -> None:
    assert tokenizer.vocab_size == 300
    assert dict(tokenizer.special_ids) == {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    assert (tokenizer.end_of_text_id, tokenizer.pad_id, tokenizer.eos_id) == (0, 0, 2)
    assert {tokenizer.token_bytes(i) for i in range(3, 259)} == {bytes([b]) for b in range(256)}
    assert len(tokenizer.merges) >= 300 - 259
    assert len(set(tokenizer.tokens)) == 300
    assert tokenizer.byte_lengths[:4] == [0, 0, 0, 1]


def test_the_same_text_gives_the_same_files(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    for name, made in (("a", tokenizer), ("b", learn(TEXTS, 300))):
        made.save(tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_text_that_looks_special_stays_text(tokenizer: BPETokenizer) -> None:
    text = "a<|im_end|>b<|endoftext|><|im_start|>system\n"
    for ids in (tokenizer.encode(text), tokenizer.encode_batch([text])[0]):
        assert not set(ids) & {0, 1, 2}
        assert tokenizer.decode(ids) == text


def test_a_character_cut_in_two_decodes_to_a_replacement(tokenizer: BPETokenizer) -> None:
    ids = tokenizer.encode("😀")
    assert b"".join(tokenizer.token_bytes(i) for i in ids) == "😀".encode()
    assert tokenizer.decode(ids[:-1]) == "\ufffd"
    assert tokenizer.decode([2, *tokenizer.encode("x")]) == "<|im_end|>x"
    assert tokenizer.decode([2, *tokenizer.encode("x")], skip_special=True) == "x"


def test_it_loads_what_it_saved_and_forgets_no_template(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("another", encoding="utf-8")
    loaded = BPETokenizer.load(tmp_path)
    assert loaded.encode(TEXTS[1]) == tokenizer.encode(TEXTS[1])
    assert (loaded.vocab_size, loaded.chat_template) == (300, "another")


def test_a_small_text_gives_a_smaller_vocabulary() -> None:
    small = learn(["ab ab"], 4096)
    assert SMALLEST_VOCABULARY <= small.vocab_size < 265
    assert small.decode(small.encode("ab ab é")) == "ab ab é"
    assert learn([], 4096).vocab_size == SMALLEST_VOCABULARY
    with pytest.raises(ConfigError, match="at least 259"):
        learn(TEXTS, 100)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        BPETokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0", "trunca', encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"tokenizer\.json \(26 bytes\) is not a tokenizer"):
        BPETokenizer.load(tmp_path)
    byte_level_backend("qwen2").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match="lacks the special tokens"):
        BPETokenizer(byte_level_backend("qwen2"))


def test_the_pattern_is_the_one_that_others_recognise(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    """Ollama knows a pre-tokenizer by the sha256 of its pattern, llama.cpp by its name."""
    from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

    assert QWEN2_PATTERN == PRETOKENIZE_REGEX
    tokenizer.save(tmp_path)
    saved = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    split, byte_level = saved["pre_tokenizer"]["pretokenizers"]
    assert (split["type"], split["behavior"], split["invert"]) == ("Split", "Isolated", False)
    assert split["pattern"] == {"Regex": QWEN2_PATTERN}
    assert (byte_level["add_prefix_space"], byte_level["use_regex"]) == (False, False)
    assert saved["normalizer"] is None and saved["post_processor"] is None
    assert not saved["model"]["byte_fallback"] and not saved["model"]["ignore_merges"]
    digest = hashlib.sha256(QWEN2_PATTERN.encode()).hexdigest()
    assert digest == "1ff7f41064896984db5d1bb6ff64fa4bc29007d08c1b439e505b7392777a319e"


def test_every_language_of_the_declaration_comes_back_whole(shared_data: Path) -> None:
    with gzip.open(shared_data / "udhr" / "udhr_articles.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    texts = [f"{row['name']}\n{row['preamble']}\n" + "\n".join(row["articles"]) for row in rows]
    tokenizer = learn([text[:400] for text in texts], 1024)
    assert tokenizer.vocab_size == 1024
    encoded = tokenizer.encode_batch(texts)
    assert len(texts) > 500
    for text, ids in zip(texts, encoded, strict=True):
        assert tokenizer.decode(ids) == text
        assert sum(tokenizer.byte_lengths[i] for i in ids) == len(text.encode())


def test_the_saved_file_needs_nothing_of_ours(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    plain = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("Füchse\n\n  12 cats", "", " ", "\u2028x\x00"):
        ids = plain.encode(text).ids
        assert ids == tokenizer.encode(text)
        assert plain.decode(ids) == text
    assert plain.encode("<|im_end|>").ids == [2]

"""Tokenizers taken over: the ids are those of the original."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.tokenizer.adopt import TIKTOKEN_PATTERNS, adopt, oniguruma
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import learn
from modelwright.tokenizer.native import library
from modelwright.tokenizer.patterns import PATTERN_NAMES, content_of
from modelwright.tokenizer.sentencepiece import from_sentencepiece

SAMPLE = (
    "The quick brown fox's 12,345 jumps over 漢字 Straße, don't they?\n\n  x = y ** 2\r\n😀 Привет мир \n"
)
TRICKY = " \n\r\t'sSd019²漢éA\u0301\u00a0<|>_-.!a/😀İß"
TEXT = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20), st.text(st.sampled_from(TRICKY))
    ),
    max_size=4,
).map("".join)


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    """tiktoken's form of a small vocabulary: the 256 bytes, then longer tokens."""
    made = learn([SAMPLE * 8], 420)
    longer = [made.token_bytes(number) for number in range(259, made.vocab_size)]
    return {piece: rank for rank, piece in enumerate([*(bytes([b]) for b in range(256)), *longer])}


def write_ranks(folder: Path, ranks: dict[bytes, int]) -> Path:
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in ranks.items()]
    path = folder / "small.tiktoken"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("pattern", list(TIKTOKEN_PATTERNS))
def test_tiktoken(ranks: dict[bytes, int], pattern: str, tmp_path: Path) -> None:
    original = tiktoken.Encoding(
        "small", pat_str=TIKTOKEN_PATTERNS[pattern], mergeable_ranks=ranks, special_tokens={}
    )
    made = adopt(write_ranks(tmp_path, ranks), pattern=pattern, add_missing=True)
    made.save(tmp_path / "saved")
    loaded = BPETokenizer.load(tmp_path / "saved")
    assert loaded.special_ids["<|endoftext|>"] == len(ranks)

    @given(TEXT)
    @settings(max_examples=60, deadline=None)
    def same(text: str) -> None:
        ids = original.encode_ordinary(text)
        assert loaded.encode(text) == ids == loaded.encode_plainly(text)
        assert loaded.decode(ids) == text

    same()
    for text in (SAMPLE * 3, "a \n  ", "  \n", " " * 50, "HTTPServer isn'T 1234567/x\n/"):
        assert loaded.encode(text) == original.encode_ordinary(text)
    assert (loaded.cut.pattern if loaded.cut else None) == (pattern if pattern in PATTERN_NAMES else None)


def test_a_tiktoken_file_that_does_not_say_enough(ranks: dict[bytes, int], tmp_path: Path) -> None:
    path = write_ranks(tmp_path, ranks)
    with pytest.raises(ConfigError, match="does not say how text is cut"):
        adopt(path)
    with pytest.raises(ConfigError, match="Did you mean 'cl100k'"):
        adopt(path, pattern="cl100")
    with pytest.raises(UserError, match="add_special_tokens=true"):
        adopt(path, pattern="gpt-2")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:200]))
    with pytest.raises(DamagedFile, match="lacks 56 of the 256 bytes"):
        adopt(path, pattern="gpt-2")
    path.write_text("\n".join([*lines[:9], "no base64", *lines[9:]]))
    with pytest.raises(DamagedFile, match="line 10"):
        adopt(path, pattern="gpt-2")


def test_what_two_engines_read_otherwise() -> None:
    assert oniguruma(r"\p{N}{1,3}+|x$|\$") == r"\p{N}{1,3}|x\z|\$"
    with pytest.raises(ConfigError, match="possessive"):
        oniguruma(r"\p{N}{1,3}+a")


@pytest.mark.parametrize("nfc", [False, True])
def test_huggingface_with_added_tokens_that_are_text(tmp_path: Path, nfc: bool) -> None:
    """Qwen's files have such tokens, and compose text first."""
    made = learn([SAMPLE * 8], 420)
    made.save(tmp_path)
    backend = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<think>", "<think>!", "</think>")])
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.save(str(tmp_path / "tokenizer.json"))
    loaded = adopt(tmp_path)
    assert (loaded._encoder is None) == (library() is None)
    assert loaded.cut and (loaded.cut.gguf_name, loaded.cut.composed) == ("qwen2", nfc)
    for text in (
        "a<think>b</think>",
        "<think>!e\u0301",
        "<|im_end|><think><think",
        SAMPLE,
        "",
        "x e\u0301 é",
    ):
        assert loaded.encode(text) == loaded.encode_plainly(text)
        assert loaded.encode_batch(["q", text]) == [loaded.encode("q"), loaded.encode_plainly(text)]
    assert backend.token_to_id("<think>") in loaded.encode("a<think>b")
    assert loaded.special_ids["<|im_end|>"] not in loaded.encode("<|im_end|>")


def test_huggingface_without_the_templates_tokens(tmp_path: Path) -> None:
    content: dict[str, Any] = content_of(learn([SAMPLE], 300)._backend)
    content["added_tokens"] = []
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    content["model"]["vocab"] = {
        f"x{t}x" if t in specials else t: i for t, i in content["model"]["vocab"].items()
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="lacks the special tokens"):
        adopt(tmp_path)
    size = len(content["model"]["vocab"])
    assert [adopt(tmp_path, add_missing=True).special_ids[t] for t in specials] == [size, size + 1, size + 2]
    with pytest.raises(ConfigError, match="leave out the pattern"):
        adopt(tmp_path, pattern="gpt-2")


def serialized_with_user_symbol(model: bytes) -> bytes:
    """The model with one more piece, of the kind that users define."""
    return b"\x0a\x0c" + b"\x0a\x03abc" + b"\x15\0\0\0\0" + b"\x18\x04" + model


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("options", [{}, {"byte_fallback": True, "remove_extra_whitespaces": False}])
def test_sentencepiece(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SAMPLE.splitlines() * 30), model_writer=written, model_type=kind,
        vocab_size=330 if options else 80, normalization_rule_name="identity" if options else "nmt_nfkc",
        minloglevel=2, hard_vocab_limit=False, **options,
    )  # fmt: skip
    path = tmp_path / "tokenizer.model"
    path.write_bytes(written.getvalue())
    original = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    made = adopt(tmp_path, add_missing=True)
    texts = [*SAMPLE.splitlines(), "  two  spaces  ", "", "Ünknöwn ჱ text", "ﬁne ①"]
    texts += ["<s> and </s>"] if kind == "bpe" else []
    for text in texts:
        assert made.encode(text) == original.encode(text), text
    assert made.vocab_size == original.get_piece_size() + 3
    if options:
        for text in ("The quick brown fox ჱ", "  two  spaces"):
            assert made.decode(made.encode(text)) == text
    user = serialized_with_user_symbol(written.getvalue())
    path.write_bytes(user)
    with pytest.raises(UserError, match="symbols of its user's"):
        adopt(tmp_path)
    path.write_bytes(written.getvalue()[:-100])
    with pytest.raises(DamagedFile, match="no SentencePiece model"):
        from_sentencepiece(path)


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_bytes_that_are_no_model_are_an_error_that_says_so(content: bytes) -> None:
    path = Path(tempfile.gettempdir()) / f"modelwright-test-{os.getpid()}.model"
    path.write_bytes(content)
    try:
        with pytest.raises(UserError):
            adopt(path)
    finally:
        path.unlink()


def test_a_path_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no tokenizer"):
        adopt(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DamagedFile, match="Copy it again"):
        adopt(tmp_path / "tokenizer.json")

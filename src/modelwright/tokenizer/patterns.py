"""How text is cut into pieces before bytes are merged: patterns that llama.cpp knows by name.

A pattern travels with its tokenizer as text, in `tokenizer.json`; its name is looked up from that text,
never guessed. None of the patterns is ours to improve: another text would be cut differently elsewhere,
and nobody would notice.

| name | digits | runs of spaces | letters with |
| --- | --- | --- | --- |
| qwen2 | one by one | kept together, the last one goes with the next word | one sign or space before them |
| llama-bpe | up to three | as qwen2 | as qwen2 |
| gpt-2 | any number | as qwen2, line breaks among them | one space before them |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

PatternName = Literal["qwen2", "llama-bpe", "gpt-2"]
PATTERN_NAMES: tuple[PatternName, ...] = get_args(PatternName)

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen2's, character for character. Ollama recognises it by the hash of this very text."""
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
"""Llama 3's. GPT-4's was the same before it was written with possessive quantifiers."""
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

REGEX: Mapping[PatternName, str] = {
    "qwen2": QWEN2_PATTERN,
    "llama-bpe": LLAMA3_PATTERN,
    "gpt-2": GPT2_PATTERN,
}

WHOLE_FIRST: Mapping[PatternName, bool] = {"qwen2": False, "llama-bpe": True, "gpt-2": False}
"""Whether llama.cpp takes a piece that is a token as it stands, before any merge, under this name
(`ignore_merges` in tokenizer.json). A tokenizer that does the other thing must not bear the name."""


@dataclass(frozen=True, slots=True)
class Cut:
    """How a byte-level tokenizer cuts text, as far as we know the pattern."""

    pattern: PatternName
    whole_first: bool
    composed: bool = False
    """Whether text is brought to Unicode's form NFC first, as Qwen2's own file does."""

    @property
    def gguf_name(self) -> str | None:
        """The name for `tokenizer.ggml.pre`. llama.cpp knows Llama 3's pattern without `ignore_merges` too,
        as "dbrx"; what it does not know has no name. It never composes: `export` says so."""
        if WHOLE_FIRST[self.pattern] == self.whole_first:
            return self.pattern
        return "dbrx" if self.pattern == "llama-bpe" else None


def byte_level_backend(
    pattern: PatternName, vocabulary: Mapping[str, int] | None = None, merges: Sequence[tuple[str, str]] = ()
) -> Tokenizer:
    """A tokenizer of the library around a vocabulary. No normalizer: llama.cpp applies none to BPE, and any
    would make decoding lossy."""
    settings: dict[str, Any] = {"ignore_merges": True} if WHOLE_FIRST[pattern] else {}
    if vocabulary is not None:
        settings |= {"vocab": dict(vocabulary), "merges": list(merges)}
    backend = Tokenizer(models.BPE(**settings))
    split = pre_tokenizers.Split(Regex(REGEX[pattern]), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def add_special_tokens(backend: Tokenizer, tokens: Sequence[str]) -> None:
    """Mark tokens as special; those that the vocabulary lacks get the next ids."""
    backend.add_special_tokens(list(tokens))  # pyright: ignore[reportUnknownMemberType]


def cut_of(content: Mapping[str, Any]) -> Cut | None:
    """How the tokenizer in a `tokenizer.json` cuts text; None where the pattern is none of ours, or where
    the text is changed before or merged in other ways."""
    model, normalizer = content["model"], content.get("normalizer")
    plain = (
        model.get("type", "BPE") == "BPE"
        and normalizer in (None, {"type": "NFC"})
        and not model.get("dropout")
        and not model.get("continuing_subword_prefix")
        and not model.get("end_of_word_suffix")
    )
    pattern = _pattern_of(content.get("pre_tokenizer") or {}) if plain else None
    return None if pattern is None else Cut(pattern, bool(model.get("ignore_merges")), normalizer is not None)


def _pattern_of(before: Mapping[str, Any]) -> PatternName | None:
    if before.get("type") == "ByteLevel":  # GPT-2's own tokenizer.json
        usual = before.get("use_regex", True) and not before.get("add_prefix_space", True)
        return "gpt-2" if usual else None
    parts = cast(list[dict[str, Any]], before.get("pretokenizers", []))
    if [part["type"] for part in parts] != ["Split", "ByteLevel"]:
        return None
    split, byte_level = parts
    isolated = split["behavior"] == "Isolated" and not split.get("invert")
    if not isolated or byte_level.get("add_prefix_space", True) or byte_level.get("use_regex", True):
        return None
    regex = split["pattern"].get("Regex")
    return next((name for name in PATTERN_NAMES if REGEX[name] == regex), None)


def content_of(backend: Tokenizer) -> dict[str, Any]:
    """The backend as `tokenizer.json` spells it."""
    return cast(dict[str, Any], json.loads(backend.to_str()))


def _letter_bytes() -> dict[str, int]:
    """Letter -> byte for the alphabet in which GPT-2 (2019) and all after it spell tokens.

    Printable Latin-1 bytes stand for themselves; the other 68 get the letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


LETTER_BYTES = _letter_bytes()
BYTE_LETTERS = {byte: letter for letter, byte in LETTER_BYTES.items()}


def spelled(piece: bytes) -> str:
    """Bytes in the alphabet of `LETTER_BYTES`."""
    return "".join(BYTE_LETTERS[byte] for byte in piece)


def bytes_of(token: str) -> bytes | None:
    """The bytes that a token spells; None where it is not spelled in the alphabet of `LETTER_BYTES`."""
    try:
        return bytes(LETTER_BYTES[letter] for letter in token)
    except KeyError:
        return None

"""The tokenizer in a GGUF file, as the files that a Hugging Face folder has.

A file says which kind of tokenizer it is (`gpt2`: byte-level BPE; `llama`: SentencePiece), its tokens, their
types, merges or scores. How byte-level BPE cuts text it says by a name that llama.cpp knows; names that we do
not know are refused, since another cut gives other tokens, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

from modelwright.base.errors import DamagedFile, UserError, did_you_mean
from modelwright.base.files import write_json, write_text
from modelwright.formats.gguf_file import GGUFFile
from modelwright.tokenizer.bpe import TOKENIZER_FILE
from modelwright.tokenizer.patterns import PatternName, byte_level_backend
from modelwright.tokenizer.roles import CONFIG_FILE, GENERATION_FILE, TEMPLATE_FILE
from modelwright.tokenizer.sentencepiece import Model, Piece, from_model

_PATTERNS: Mapping[str, tuple[PatternName, bool]] = {
    "qwen2": ("qwen2", False),
    "deepseek-r1-qwen": ("qwen2", False),
    "llama3": ("llama-bpe", True),
    "llama-v3": ("llama-bpe", True),
    "llama-bpe": ("llama-bpe", True),
    "dbrx": ("llama-bpe", False),
    "gpt-2": ("gpt-2", False),
}
"""llama.cpp's name -> our pattern, and whether a piece that is a token is taken as it stands."""
_DIGITS_FIRST = ("smollm",)
"""Names of GPT-2's pattern behind a cut of every digit from the next."""
PRE_TOKENIZERS = (*_PATTERNS, *_DIGITS_FIRST)
"""All names that we know."""
_MAX_TEMPLATE = 1 << 20
_LONGEST = 1024
"""Letters of a template, and of a token."""
ROLES = ("bos", "eos", "pad", "unk")
"""Tokens with a part to play. GGUF writes two of them out."""
_ROLE_KEYS = {"pad": "padding", "unk": "unknown"}
_MORE_ENDS = ("eot", "eom")
"""Further tokens at which an answer ends."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a file says of its tokenizer."""

    backend: Tokenizer
    roles: Mapping[str, int]
    """Role -> id."""
    tokens: list[str]
    ends: list[int]
    """Ids at which an answer ends."""
    adds_bos: bool
    chat_template: str

    @classmethod
    def read(cls, source: GGUFFile, rows: int) -> Vocabulary:
        """Read and check it; `rows` is how many embeddings the model has."""
        kind = source.setting("tokenizer.ggml.model", str)
        tokens = source.setting("tokenizer.ggml.tokens", list)
        types = source.setting("tokenizer.ggml.token_type", list, [int(TokenType.NORMAL)] * len(tokens))
        if not 0 < len(tokens) <= rows or len(types) != len(tokens) or len(set(tokens)) != len(tokens):
            raise DamagedFile(
                f"{source.path} has {len(tokens):,} tokens ({len(set(tokens)):,} of them different), types of"
                f" {len(types):,} and {rows:,} embeddings: they do not belong together"
            )
        if not all(isinstance(token, str) and len(token) <= _LONGEST for token in tokens):
            raise DamagedFile(
                f"{source.path}: tokenizer.ggml.tokens are not all texts of at most {_LONGEST} letters"
            )
        makers = {"gpt2": _byte_level, "llama": _sentencepiece}
        if kind not in makers:
            raise UserError(
                f"{source.path}: a tokenizer of GGUF's kind '{kind}' is not supported, expected gpt2 (byte"
                "-level BPE) or llama (SentencePiece). Take the model's own folder, with its tokenizer.json."
            )
        backend = makers[kind](source, tokens, types)
        roles = _roles(source, len(tokens))
        usually = kind == "llama" or _pattern(source) == ("llama-bpe", True)
        adds_bos = source.setting("tokenizer.ggml.add_bos_token", bool, usually) and "bos" in roles
        if adds_bos:
            _begin_with(backend, tokens[roles["bos"]], roles["bos"], source)
        more = [source.settings.get(f"tokenizer.ggml.{role}_token_id") for role in _MORE_ENDS]
        ends = [roles["eos"]] if "eos" in roles else []
        ends += [end for end in more if isinstance(end, int) and 0 <= end < len(tokens) and end not in ends]
        return cls(backend, roles, tokens, ends, adds_bos, _template(source))

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the tokenizer's files; returns the ids of its roles for config.json."""
        write_text(folder / TOKENIZER_FILE, self.backend.to_str(pretty=True))
        named = {f"{role}_token": self.tokens[index] for role, index in self.roles.items()}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": self.adds_bos,
            "clean_up_tokenization_spaces": False,
            **named,
        }
        if self.chat_template:
            settings["chat_template"] = self.chat_template
            write_text(folder / TEMPLATE_FILE, self.chat_template)
        write_json(folder / CONFIG_FILE, settings)
        special: dict[str, Any] = {
            f"{role}_token_id": index for role, index in self.roles.items() if role != "unk"
        }
        if self.ends:
            special["eos_token_id"] = self.ends[0] if len(self.ends) == 1 else self.ends
        write_json(folder / GENERATION_FILE, special)
        return special


def _pattern(source: GGUFFile) -> tuple[PatternName, bool] | None:
    """What the name of the pre-tokenizer stands for; None where it is none of those above."""
    return _PATTERNS.get(source.setting("tokenizer.ggml.pre", str, ""))


def _begin_with(backend: Tokenizer, bos: str, index: int, source: GGUFFile) -> None:
    """Let every text begin with bos."""
    try:
        backend.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", bos, "$B"], special_tokens=[(bos, index)]
        )
    except ValueError as error:
        raise DamagedFile(f"{source.path}: no text can begin with the token {bos!r}: {error}") from error


def _roles(source: GGUFFile, count: int) -> dict[str, int]:
    found: dict[str, int] = {}
    for role in ROLES:
        name = f"tokenizer.ggml.{_ROLE_KEYS.get(role, role)}_token_id"
        if name in source.settings:
            found[role] = source.setting(name, int)
            if not 0 <= found[role] < count:
                raise DamagedFile(f"{source.path} says {found[role]} of {name}: expected 0 to {count - 1}")
    return found


def _template(source: GGUFFile) -> str:
    template = source.setting("tokenizer.chat_template", str, "")
    if len(template) > _MAX_TEMPLATE:
        raise DamagedFile(f"{source.path}: a chat template of {len(template):,} letters is none")
    return template


def _byte_level(source: GGUFFile, tokens: list[str], types: list[int]) -> Tokenizer:
    """BPE over bytes, from tokens, merges and the name of a pattern."""
    name = source.setting("tokenizer.ggml.pre", str, "(none)")
    halves = [str(merge).partition(" ") for merge in source.setting("tokenizer.ggml.merges", list)]
    if not all(first and second and " " not in second for first, _, second in halves):
        raise DamagedFile(f"{source.path}: tokenizer.ggml.merges are not all of two tokens")
    merges = [(first, second) for first, _, second in halves]
    vocabulary = {token: n for n, token in enumerate(tokens) if types[n] != TokenType.UNUSED}
    if name not in PRE_TOKENIZERS:
        raise UserError(
            f"{source.path}: text is cut by the pattern '{name}', which is not known here, and another cut"
            f" gives other tokens.{did_you_mean(name, PRE_TOKENIZERS)} Take the model's own folder, with its"
            " tokenizer.json."
        )
    pattern, whole_first = _pattern(source) or ("gpt-2", False)
    backend = byte_level_backend(pattern)
    try:
        backend.model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=whole_first)
    except Exception as error:  # the library raises bare Exception
        raise DamagedFile(f"{source.path}: tokens and merges do not belong together: {error}") from error
    if name in _DIGITS_FIRST:
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level])
    added = [n for n, kind in enumerate(types) if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)]
    backend.add_tokens(
        [AddedToken(tokens[n], special=types[n] == TokenType.CONTROL, normalized=False) for n in added]
    )
    return backend


def _sentencepiece(source: GGUFFile, tokens: list[str], types: list[int]) -> Tokenizer:
    """SentencePiece's BPE, whose merges follow from the scores. GGUF's types are SentencePiece's numbers."""
    scores = source.setting("tokenizer.ggml.scores", list)
    if len(scores) != len(tokens) or not all(isinstance(score, float) for score in scores):
        raise DamagedFile(f"{source.path} has {len(scores):,} scores for {len(tokens):,} tokens")
    pieces = [Piece(*entry) for entry in zip(tokens, scores, types, strict=True)]
    model = Model(
        pieces=tuple(pieces),
        algorithm=2,
        byte_fallback=int(TokenType.BYTE) in types,
        charsmap=b"",
        dummy_prefix=source.setting("tokenizer.ggml.add_space_prefix", bool, True),
        squeeze=source.setting("tokenizer.ggml.remove_extra_whitespaces", bool, False),
        suffix=False,
    )
    try:
        return from_model(model, source.path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # the library raises bare Exception
        raise DamagedFile(f"{source.path}: its tokens make no vocabulary: {error}") from error

"""Taking over a tokenizer that exists: Hugging Face's, tiktoken's, SentencePiece's. Ids stay as they were.

What comes out is a `tokenizer.json` like any other. Byte-level BPE on a pattern that we know is encoded by
our own encoder, all else by the `tokenizers` library.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from modelwright.base.errors import ConfigError, DamagedFile, UserError, did_you_mean
from modelwright.tokenizer.bpe import TOKENIZER_FILE, BPETokenizer
from modelwright.tokenizer.chat import SPECIAL_TOKENS
from modelwright.tokenizer.patterns import PATTERN_NAMES, REGEX, add_special_tokens, spelled
from modelwright.tokenizer.sentencepiece import from_sentencepiece

_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s"
)
_LOWER, _UPPER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TIKTOKEN_PATTERNS: Mapping[str, str] = {**REGEX, "cl100k": _CL100K, "o200k": _O200K}
"""Patterns that a tiktoken file can be read with, by name: the file itself does not say."""


def adopt(path: Path, *, pattern: str = "", add_missing: bool = False) -> BPETokenizer:
    """The tokenizer at `path`: a model folder or `tokenizer.json` of Hugging Face, a `.tiktoken` file of
    ranks (with its `pattern`, by name or as a regex), or a `.model` of SentencePiece.

    The chat template needs three special tokens. Where they are missing this is a UserError, or they get
    the next ids with `add_missing`: a model that was trained with the tokenizer then needs more rows.
    """
    backend = _read(Path(path), pattern)
    if add_missing:
        add_special_tokens(backend, SPECIAL_TOKENS)
    return BPETokenizer(backend)


def _read(path: Path, pattern: str) -> Tokenizer:
    file = path
    if path.is_dir():
        found = [path / TOKENIZER_FILE, *sorted(path.glob("*.tiktoken")), path / "tokenizer.model"]
        file = next((candidate for candidate in found if candidate.is_file()), path)
    if not file.is_file():
        raise UserError(
            f"{path} holds no tokenizer: expected a model folder or {TOKENIZER_FILE} of Hugging Face, a"
            " .tiktoken file, or a .model of SentencePiece"
        )
    if pattern and file.suffix != ".tiktoken":
        raise ConfigError(f"{file} says itself how it cuts text: leave out the pattern '{pattern}'")
    if file.suffix == ".tiktoken":
        return from_tiktoken(read_ranks(file), pattern)
    if file.suffix == ".model":
        return from_sentencepiece(file)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        size = file.stat().st_size
        raise DamagedFile(f"{file} ({size:,} bytes) is not a tokenizer: {error}. Copy it again.") from error


def read_ranks(file: Path) -> dict[bytes, int]:
    """Token -> rank from tiktoken's format: a line for each token, in base64, and its rank."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise DamagedFile(f"{file}, line {number}: expected a token in base64 and its rank") from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise DamagedFile(f"{file} lacks {len(missing)} of the 256 bytes: cut short, or no tiktoken file")
    return ranks


def from_tiktoken(ranks: Mapping[bytes, int], pattern: str) -> Tokenizer:
    """Byte-level BPE from tiktoken's ranks. tiktoken takes a piece that is a token as it stands, and merges
    any two neighbours that make a token, lowest rank first: so each token has a merge for every way to
    halve it."""
    if not pattern:
        names = ", ".join(TIKTOKEN_PATTERNS)
        raise ConfigError(f"a tiktoken file does not say how text is cut: set pattern to {names} or a regex")
    merges: list[tuple[str, str]] = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        halves = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        both = [(a, b) for a, b in halves if a in ranks and b in ranks]
        both.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(spelled(a), spelled(b)) for a, b in both]
    vocabulary = {spelled(token): rank for token, rank in ranks.items()}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ours = [REGEX[known] for known in PATTERN_NAMES if pattern in (known, REGEX[known])]
    regex = ours[0] if ours else oniguruma(TIKTOKEN_PATTERNS.get(pattern, pattern))
    split = pre_tokenizers.Split(Regex(regex), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    backend.decoder = decoders.ByteLevel()
    return backend


def oniguruma(regex: str) -> str:
    r"""A pattern of tiktoken's (Rust's fancy-regex) for the library's engine, which reads two things
    otherwise: `x{1,3}+` is a repeat of a repeat and not possessive, and `$` ends any line.

    A possessive repeat at the end of an alternative is the same without the `+`; elsewhere it is refused."""
    if re.fullmatch(r"[\w-]+", regex):
        raise ConfigError(f"pattern '{regex}' is unknown.{did_you_mean(regex, TIKTOKEN_PATTERNS)}")
    plain = re.sub(r"(\{\d+,\d*\})\+(?=\||$|\))", r"\1", regex)
    if re.search(r"\{\d+,\d*\}\+", plain):
        raise ConfigError(f"the pattern {regex!r} has a possessive count that cannot be carried over")
    return re.sub(r"(?<!\\)\$", r"\\z", plain)

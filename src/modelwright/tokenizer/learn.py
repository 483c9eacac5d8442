"""Learning a vocabulary: byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909).

Our learner (`tokenizer.native`) counts pieces and merges pairs in C++; where it cannot be compiled the
`tokenizers` library learns the very same vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence

from tokenizers import Regex, pre_tokenizers, trainers

from modelwright.base.errors import ConfigError
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import SPECIAL_TOKENS
from modelwright.tokenizer.native import Learner, library
from modelwright.tokenizer.patterns import (
    LETTER_BYTES,
    QWEN2_PATTERN,
    REGEX,
    PatternName,
    add_special_tokens,
    byte_level_backend,
)

__all__ = ["PRE_TOKENIZER", "QWEN2_PATTERN", "SMALLEST_VOCABULARY", "learn", "special_tokens"]

PRE_TOKENIZER: PatternName = "qwen2"
"""The pattern by default."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)

LEAST = 2
"""A pair that occurs less often is not merged."""
MAX_PIECES = 8_000_000
"""Distinct pieces that are counted at a time: about a gigabyte. Beyond it the rarest are forgotten."""
_BATCH_BYTES = 1 << 20


def special_tokens(names: Sequence[str] = (), reserved: int = 0, pattern: PatternName = "qwen2") -> list[str]:
    """All special tokens in the order of their ids: ours, then the named, then the reserved ones.

    Their ids do not depend on the vocabulary's size. No text may ever be merged into one of them, so each
    must be one that the pattern cuts in two; ConfigError where it is not, and where a name comes twice.
    """
    tokens = [*SPECIAL_TOKENS, *names, *(f"<|reserved_{number}|>" for number in range(reserved))]
    split = pre_tokenizers.Split(Regex(REGEX[pattern]), behavior="isolated")
    for number, token in enumerate(tokens):
        if token in tokens[:number]:
            raise ConfigError(f"the special token {token} is there twice: each name once")
        if len(split.pre_tokenize_str(token)) < 2 or any(letter.isspace() for letter in token):
            raise ConfigError(
                f"special token '{token}': expected letters between signs and no white space, such as"
                f" <|{token.strip('<|>') or 'name'}|>, so that no text can be merged into it"
            )
    return tokens


def learn(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: PatternName = PRE_TOKENIZER,
    special: Sequence[str] = SPECIAL_TOKENS,
    max_pieces: int = MAX_PIECES,
    warn: Callable[[str], None] | None = None,
) -> BPETokenizer:
    """Learn a vocabulary of `vocab_size` ids from `texts`; the same texts give the same vocabulary.

    The first ids are the `special` tokens, then the 256 bytes, then one id per merge. Where the text has
    too few pairs that occur twice, the vocabulary stays smaller: look at `vocab_size` of the result.
    A multiple of 64 is easiest on the hardware. Memory grows with the distinct pieces, up to `max_pieces`.
    """
    smallest = 256 + len(special)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size is {vocab_size}, expected at least {smallest}: 256 bytes and "
            f"{len(special)} special tokens come before the first learned piece"
        )
    functions = library()
    if functions is None:
        return learn_plainly(texts, vocab_size, pattern=pattern, special=special)
    return _learn_natively(functions, texts, vocab_size, pattern, special, max_pieces, warn)


def learn_plainly(
    texts: Iterable[str],
    vocab_size: int,
    *,
    pattern: PatternName = PRE_TOKENIZER,
    special: Sequence[str] = SPECIAL_TOKENS,
) -> BPETokenizer:
    """`learn` by the `tokenizers` library: the plain version."""
    backend = byte_level_backend(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=LEAST,
        special_tokens=list(special),
        initial_alphabet=sorted(LETTER_BYTES),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return BPETokenizer(backend)


def _learn_natively(
    functions: ctypes.CDLL,
    texts: Iterable[str],
    vocab_size: int,
    pattern: PatternName,
    special: Sequence[str],
    max_pieces: int,
    warn: Callable[[str], None] | None,
) -> BPETokenizer:
    learner = Learner(functions, pattern, max_pieces)
    for batch in _batches(texts):
        learner.add(batch)
    if learner.forgotten and warn:
        warn(
            f"the text has more than {max_pieces:,} distinct pieces: those that had occurred "
            f"{learner.forgotten} times or less were forgotten on the way to bound memory"
        )
    tokens: list[str] = [*special, *sorted(LETTER_BYTES)]  # the order in which the library numbers them
    numbers = {LETTER_BYTES[letter]: len(special) + rank for rank, letter in enumerate(sorted(LETTER_BYTES))}
    byte_ids = [numbers[byte] for byte in range(256)]
    found = learner.learn(byte_ids, len(tokens), vocab_size - len(tokens), LEAST)
    merges: dict[tuple[str, str], None] = {}
    rows: list[tuple[int, int, int]] = found.tolist()
    for left, right, result in rows:
        if result == len(tokens):
            tokens.append(tokens[left] + tokens[right])
        pair = (tokens[left], tokens[right])
        merges.pop(pair, None)  # merged twice: the library counts the later rank
        merges[pair] = None
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = byte_level_backend(pattern, vocabulary, list(merges))
    add_special_tokens(backend, special)
    return BPETokenizer(backend)


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Lists of about a megabyte, so that a call counts for something."""
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

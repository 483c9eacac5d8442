"""Learning a vocabulary: byte-level byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909)."""

from __future__ import annotations

from collections.abc import Iterable

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from modelwright.base.errors import ConfigError
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import SPECIAL_TOKENS

QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before merging: Qwen2's pattern, character for character. llama.cpp knows it as
"qwen2", and Ollama recognises it by the hash of this very text, so it is not ours to improve."""

PRE_TOKENIZER = "qwen2"
"""The name for `tokenizer.ggml.pre` in a GGUF file."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def empty_backend() -> tokenizers.Tokenizer:
    """The pipeline around the vocabulary. No normalizer: llama.cpp applies none to BPE, and any would
    make decoding lossy."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def learn(texts: Iterable[str], vocab_size: int) -> BPETokenizer:
    """Learn a vocabulary of `vocab_size` ids from `texts`; the same texts give the same vocabulary.

    The first ids are the special tokens, then the 256 bytes, then one id per merge. Where the text has
    too few pairs that occur twice, the vocabulary stays smaller: look at `vocab_size` of the result.
    A multiple of 64 is easiest on the hardware.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise ConfigError(
            f"vocab_size is {vocab_size}, expected at least {SMALLEST_VOCABULARY}: 256 bytes and "
            f"{len(SPECIAL_TOKENS)} special tokens come before the first learned piece"
        )
    backend = empty_backend()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer=trainer)
    return BPETokenizer(backend)

"""tokenize: documents -> a tokenizer and shards of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import sha256_file, write_json
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus
from modelwright.data.split import Side, position
from modelwright.stages.balance import Balance, count_groups
from modelwright.stages.balance import sample as balanced
from modelwright.tokenizer.adopt import adopt
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import PRE_TOKENIZER, SMALLEST_VOCABULARY, learn, special_tokens
from modelwright.tokenizer.patterns import PatternName
from modelwright.tokenizer.shard_writer import write_shards

INPUTS: tuple[str, ...] = ("corpus",)

SIDES: tuple[Side, ...] = ("train", "validation")
BY_SOURCE_FILE = "by_source.json"
_BATCH_BYTES = 1 << 20
_SOURCES_SHOWN = 20


class StartFrom(config.Config):
    """A tokenizer that exists already."""

    path: Path
    """A model folder or tokenizer.json of Hugging Face, a .tiktoken file, or a .model of SentencePiece."""
    pattern: str = ""
    """For a .tiktoken file, which does not say how text is cut: cl100k, o200k, gpt-2 or a regex."""
    add_special_tokens: bool = False
    """Whether the chat template's special tokens are added where they are missing."""


class Config(config.Config):
    """The vocabulary, and how ids are stored."""

    vocab_size: int = Field(default=4096, ge=SMALLEST_VOCABULARY, le=1 << 20)
    """Ids in all, special tokens included. A multiple of 64 suits the hardware."""
    pattern: PatternName = PRE_TOKENIZER
    """How text is cut, by llama.cpp's name. qwen2: digits one by one; llama-bpe: up to three together; gpt-2:
    any number. Runs of spaces, as code has them, can become tokens in all three."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens of your own, such as <|tool_call|>: ids from 3 on, in this order."""
    reserved_tokens: int = Field(default=0, ge=0, le=4096)
    """Special tokens <|reserved_0|> ... behind them, for what is not known yet: their ids stay free."""
    sample_bytes: int = Field(default=20_000_000, gt=0)
    """At most about this much of the training text is used to learn the vocabulary."""
    balance: Balance = Balance()
    """How much of each language or source the vocabulary is learned from."""
    start_from: StartFrom | None = None
    """Take over this tokenizer; nothing is learned, and the settings above have no effect."""
    shard_tokens: int = Field(default=1 << 26, gt=0)
    """Tokens in one shard file."""

    @model_validator(mode="after")
    def _special_tokens_are_sound(self) -> Self:
        try:
            count = len(special_tokens(self.special_tokens, self.reserved_tokens, self.pattern))
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if self.vocab_size < 256 + count:
            raise ValueError(
                f"vocab_size {self.vocab_size} is too small for 256 bytes, {count} special tokens"
            )
        return self


def sources(config: Config) -> str:
    """A mark that changes when the tokenizer to start from does."""
    start = config.start_from.path if config.start_from else None
    if start is None or not start.exists():
        return ""
    files = sorted(file for file in start.glob("*token*") if file.is_file()) if start.is_dir() else [start]
    return " ".join(f"{file.name}:{sha256_file(file)}" for file in files)


@dataclass(slots=True)
class Tally:
    """What a source or a side comes to."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0

    def add(self, size: int, tokens: int) -> None:
        """One more document; `tokens` without its end."""
        self.documents, self.bytes, self.tokens = self.documents + 1, self.bytes + size, self.tokens + tokens

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text per token."""
        return round(self.bytes / max(1, self.tokens), 4)


def run(config: Config, run: Run) -> Artifact:
    """Learn the vocabulary on training text, encode both sides."""
    corpus = run.input("corpus")
    sizes = {side: int(corpus.metrics.get(f"{side}_documents", 0)) for side in SIDES}
    if not sizes["train"]:
        raise UserError(f"the corpus {corpus.path} has no training documents: there is nothing to learn from")
    tokenizer = learn_tokenizer(config, run)
    run.computes_with("tokenizer", tokenizer.describe())
    tokenizer.save(run.dir / "tokenizer")
    by_source: dict[str, Tally] = {}
    metrics: dict[str, Any] = {"vocab_size": tokenizer.vocab_size}
    for side in SIDES:
        total = encode_side(config, run, tokenizer, side, sizes[side], by_source)
        metrics |= {
            f"{side}_documents": total.documents,
            f"{side}_bytes": total.bytes,
            f"{side}_tokens": total.tokens + total.documents,
            f"{side}_bytes_per_token": total.bytes_per_token,
        }
        run.log(f"{side}: {total.tokens:,} tokens, {total.bytes_per_token:.2f} bytes a token")
    ranked = sorted(by_source.items(), key=lambda item: -item[1].bytes)
    metrics["bytes_per_token_by_source"] = {name: t.bytes_per_token for name, t in ranked[:_SOURCES_SHOWN]}
    rows = [
        {"source": name, "documents": t.documents, "bytes": t.bytes, "tokens": t.tokens} for name, t in ranked
    ]
    write_json(run.dir / BY_SOURCE_FILE, rows)
    return run.finish(["tokenizer", *SIDES, BY_SOURCE_FILE], metrics)


def learn_tokenizer(config: Config, run: Run) -> BPETokenizer:
    """The vocabulary from (a sample of) the training documents, or the one to start from."""
    if config.start_from is not None:
        start = config.start_from
        return adopt(start.path, pattern=start.pattern, add_missing=start.add_special_tokens)
    corpus = run.input("corpus")
    train_bytes = int(corpus.metrics["train_bytes"])
    expected, texts = sampled(config, run, train_bytes)
    with run.progress("bytes to learn the vocabulary from", expected) as task:

        def watched() -> Iterator[str]:
            for text in texts:
                yield text
                task.advance(len(text.encode()))

        special = special_tokens(config.special_tokens, config.reserved_tokens, config.pattern)
        tokenizer = learn(watched(), config.vocab_size, pattern=config.pattern, special=special, warn=run.log)
    if tokenizer.vocab_size < config.vocab_size:
        run.log(
            f"the text holds too little for a vocabulary of {config.vocab_size:,}: no pair of pieces is left "
            f"that occurs twice. It has {tokenizer.vocab_size:,} ids; give more text, or ask for fewer."
        )
    return tokenizer


def sampled(config: Config, run: Run, train_bytes: int) -> tuple[int, Iterator[str]]:
    """(about how many bytes, the texts) of the sample that the vocabulary is learned from."""
    folder, balance = run.input("corpus").file("train"), config.balance
    total = min(config.sample_bytes, train_bytes)
    if not balance.is_set:
        share = min(1.0, config.sample_bytes / max(1, train_bytes))
        return total, sample(read_corpus(folder), share)
    sizes = count_groups(read_corpus(folder), balance)
    rates = balance.rates(sizes, total)
    for group in balance.shares:
        if group not in sizes:
            run.log(f"balance.shares names '{group}', of which the corpus has nothing")
    expected = sum(rate * sizes[group] for group, rate in rates.items())
    ranked = sorted(rates, key=lambda group: -rates[group] * sizes[group])[:_SOURCES_SHOWN]
    shown = ", ".join(f"{group} {rates[group] * sizes[group] / expected:.1%}" for group in ranked)
    run.log(f"the vocabulary is learned from {expected:,.0f} bytes: {shown}")
    return int(expected), balanced(read_corpus(folder), rates, balance)


def sample(documents: Iterable[Document], share: float) -> Iterator[str]:
    """Texts of about `share` of the documents, chosen by their hash: the order does not matter."""
    for document in documents:
        if share >= 1.0 or position(document.id, "vocabulary") < share:
            yield document.text


def encode_side(
    config: Config, run: Run, tokenizer: BPETokenizer, side: Side, documents: int, by_source: dict[str, Tally]
) -> Tally:
    """Write one side's shards; memory holds one batch."""
    total = Tally()
    with (
        run.progress(f"documents to encode ({side})", documents) as task,
        write_shards(
            run.dir / side,
            vocab_size=tokenizer.vocab_size,
            end_of_text_id=tokenizer.end_of_text_id,
            shard_tokens=config.shard_tokens,
        ) as writer,
    ):
        for batch in batches(read_corpus(run.input("corpus").file(side))):
            ids, ends = tokenizer.encode_arrays([document.text for document in batch])
            for document, (start, end) in zip(batch, pairwise([0, *ends.tolist()]), strict=True):
                size = len(document.text) if document.text.isascii() else len(document.text.encode())
                writer.add(ids[start:end], document=document.id, source=document.source, num_bytes=size)
                for tally in (total, by_source.setdefault(document.source, Tally())):
                    tally.add(size, end - start)
            task.advance(len(batch), tokens=total.tokens)
    return total


def batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents in lists of about a megabyte of text, so that all cores have work."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

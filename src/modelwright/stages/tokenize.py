"""tokenize: documents -> a tokenizer and shards of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import write_json
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus
from modelwright.data.split import Side, position
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import SMALLEST_VOCABULARY, learn
from modelwright.tokenizer.shard_writer import write_shards

INPUTS: tuple[str, ...] = ("corpus",)

SIDES: tuple[Side, ...] = ("train", "validation")
BY_SOURCE_FILE = "by_source.json"
_BATCH_BYTES = 1 << 20
_SOURCES_SHOWN = 20


class Config(config.Config):
    """The vocabulary, and how ids are stored."""

    vocab_size: int = Field(default=4096, ge=SMALLEST_VOCABULARY, le=1 << 20)
    """Ids in all, special tokens included. A multiple of 64 suits the hardware."""
    sample_bytes: int = Field(default=20_000_000, gt=0)
    """At most about this much of the training text is used to learn the vocabulary."""
    shard_tokens: int = Field(default=1 << 26, gt=0)
    """Tokens in one shard file."""


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
    """The vocabulary from (a sample of) the training documents."""
    corpus = run.input("corpus")
    train_bytes = int(corpus.metrics["train_bytes"])
    share = min(1.0, config.sample_bytes / max(1, train_bytes))
    texts = sample(read_corpus(corpus.file("train")), share)
    with run.progress("bytes to learn the vocabulary from", int(train_bytes * share)) as task:

        def watched() -> Iterator[str]:
            for text in texts:
                yield text
                task.advance(len(text.encode()))

        tokenizer = learn(watched(), config.vocab_size)
    if tokenizer.vocab_size < config.vocab_size:
        run.log(
            f"the text holds too little for a vocabulary of {config.vocab_size:,}: no pair of pieces is left "
            f"that occurs twice. It has {tokenizer.vocab_size:,} ids; give more text, or ask for fewer."
        )
    return tokenizer


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
            encoded = tokenizer.encode_batch([document.text for document in batch])
            for document, ids in zip(batch, encoded, strict=True):
                size = len(document.text.encode())
                writer.add(ids, document=document.id, source=document.source, num_bytes=size)
                for tally in (total, by_source.setdefault(document.source, Tally())):
                    tally.add(size, len(ids))
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

"""Tokenizer speed on one core: encoding into shards, encoding alone, and learning a vocabulary.

Text: 92 novels (57 MB) cut into documents of about 3.4 kB. Encoding is compared with tiktoken, built from
our vocabulary, text by text and by its call for many texts (`encode_ordinary_batch`), and with the
`tokenizers` library, each on one thread, ids checked to be equal first. The
whole way is Parquet -> ids -> shards, with our reader and writer for all. Learning 32,768 ids is compared
with rustbpe and with the library, which may use all cores. Each side is a process of its own; they take
turns.

    make bench NAME=tokenizer
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus, write_corpus
from modelwright.stages.tokenize import batches
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import QWEN2_PATTERN, learn, learn_plainly
from modelwright.tokenizer.shard_writer import write_shards
from record import Pace, Row, compare, interleave, publish

NOVELS = Path(__file__).parents[2] / "shared" / "data" / "litbank_novels"
VOCABULARY, DOCUMENT = 32_768, 3_400
SAMPLE_BYTES = 8_000_000
ROUNDS, LEARNING_ROUNDS = 9, 3
BAR = 1.0

Encode = Callable[[Sequence[str]], Iterator[Sequence[int] | np.ndarray]]


def texts() -> list[str]:
    """The novels in pieces, cut at line breaks."""
    whole = [
        text
        for file in sorted(NOVELS.glob("*.parquet"))
        for text in pq.read_table(file, columns=["text"]).column("text").to_pylist()
    ]
    found: list[str] = []
    for text in whole:
        start = 0
        while start < len(text):
            end = text.find("\n", start + DOCUMENT) + 1 or len(text)
            found.append(text[start:end])
            start = end
    return found


def encoder(name: str, tokenizer: BPETokenizer) -> Encode:
    """The peer's fastest way to the ids of many texts on one thread."""
    if name == "ours":

        def ours(batch: Sequence[str]) -> Iterator[np.ndarray]:
            ids, ends = tokenizer.encode_arrays(batch)
            return (ids[start:end] for start, end in pairwise([0, *ends.tolist()]))

        return ours
    if name == "tokenizers":
        backend = tokenizer._backend
        return lambda batch: (e.ids for e in backend.encode_batch_fast(batch, add_special_tokens=False))
    import tiktoken

    ranks = {tokenizer.token_bytes(number): number for number in range(3, tokenizer.vocab_size)}
    encoding = tiktoken.Encoding("ours", pat_str=QWEN2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    if name == "tiktoken batch":
        return lambda batch: iter(encoding.encode_ordinary_batch(list(batch), num_threads=1))
    return lambda batch: (encoding.encode_ordinary(text) for text in batch)


def sample() -> list[str]:
    """Documents of about 8 MB, spread over all novels."""
    found = texts()
    return found[:: max(1, sum(map(len, found)) // SAMPLE_BYTES)]


def work(name: str, task: str, folder: Path) -> None:
    """What one process does, step by step, until nobody asks for more."""
    pace = Pace(warm_up=1)
    if task == "learn":
        learn_forever(name, pace)
    tokenizer = BPETokenizer.load(folder)
    encode, found = encoder(name, tokenizer), sample()
    for text, ids in zip(found[:500], encode(found[:500]), strict=True):
        assert list(ids) == tokenizer.encode_plainly(text), f"{name} gives other ids"
    while True:
        if task == "encode":
            for start in range(0, len(found), 300):
                for _ in encode(found[start : start + 300]):
                    pass
        else:
            into_shards(encode, tokenizer, folder)
        pace()


def into_shards(encode: Encode, tokenizer: BPETokenizer, folder: Path) -> None:
    """Parquet -> ids -> shards."""
    sizes = {"vocab_size": tokenizer.vocab_size, "end_of_text_id": tokenizer.end_of_text_id}
    with tempfile.TemporaryDirectory() as out, write_shards(Path(out) / "shards", **sizes) as writer:
        for batch in batches(read_corpus(folder / "corpus")):
            for document, ids in zip(batch, encode([d.text for d in batch]), strict=True):
                size = len(document.text.encode())
                writer.add(ids, document=document.id, source=document.source, num_bytes=size)


def learn_forever(name: str, pace: Pace) -> None:
    """Learns the same vocabulary again and again."""
    found = texts()
    while True:
        if name == "rustbpe":
            import rustbpe

            rustbpe.Tokenizer().train_from_iterator(iter(found), VOCABULARY, pattern=QWEN2_PATTERN)
        else:
            (learn if name == "ours" else learn_plainly)(found, VOCABULARY)
        pace()


def measure(task: str, peers: Sequence[str], rounds: int, folder: Path, megabytes: float) -> list[Row]:
    """Rows of ours against each peer, in MB of text a second."""
    commands = {
        name: [sys.executable, __file__, "--worker", name, "--task", task, "--folder", str(folder)]
        for name in ("ours", *peers)
    }
    seconds = interleave(commands, rounds)
    speeds = {name: [megabytes / value for value in values] for name, values in seconds.items()}
    titles = {"encode": "encoding alone", "shards": "Parquet into shards", "learn": "learning 32,768 ids"}
    return [compare(titles[task], "MB/s", speeds["ours"], speeds[peer], peer, BAR) for peer in peers]


def main() -> None:
    parser = argparse.ArgumentParser()
    for option in ("worker", "task", "folder"):
        parser.add_argument(f"--{option}")
    given = parser.parse_args()
    if not NOVELS.is_dir():
        raise SystemExit(f"no novels at {NOVELS}: this benchmark needs real text")
    if given.worker:
        work(given.worker, given.task, Path(given.folder))
    load = os.getloadavg()[0]
    one_core = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    found = texts()
    size, part = sum(len(t.encode()) for t in found) / 1e6, sum(len(t.encode()) for t in sample()) / 1e6
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        learn(found, VOCABULARY).save(folder)
        with write_corpus(folder / "corpus") as writer:
            for text in sample():
                writer.add(Document(text=text, id=sha256_text(text), source="novels"))
        rows = measure("learn", ["rustbpe", "tokenizers"], LEARNING_ROUNDS, folder, size)
        os.environ.update(one_core)
        for task in ("shards", "encode"):
            rows += measure(task, ["tiktoken", "tiktoken batch", "tokenizers"], ROUNDS, folder, part)
    notes = (
        f"Load of the machine at the start: {load:.1f}. "
        f"{len(found):,} documents, {size:.1f} MB; encoding reads {part:.1f} MB of them a round. Encoding is"
        f" on one thread each. Learning: ours on one thread, the peers on all {os.cpu_count()} cores."
    )
    publish("tokenizer", rows, ["tokenizers", "tiktoken", "rustbpe", "numpy", "pyarrow"], notes)


if __name__ == "__main__":
    main()

"""Near duplicates found per second on one core: ours, datatrove, datasketch and rensa.

Novels cut into documents of about 3.4 kB, and copies of some of them with words changed. All use runs of 5
words, 14 bands of 8 hashes, and one core. Each side is a process of its own; they take turns, a step being
the signatures of all documents or the rest: bands, clusters, what stays. datatrove runs its own steps with
their defaults (xxhash of 64 bits, which from its version 4 on takes bytes: texts are encoded for it), with
its English tokenizer and with the one that it gives to languages without one; its last step, which drops
the documents, is not timed. datasketch runs with its fastest scheme and xxhash of 32 bits, rensa with its
one call for all documents, both on words split at spaces, which is all the normalisation they get.
"planted found" is the share of changed copies that meet their original; "rightly dropped" the share of
dropped documents that are such copies. Exact passages: 4 MB of the novels, against a suffix array
(libdivsufsort) and its common prefixes, in memory, by the same rule.

    make bench NAME=dedup
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from record import Pace, Row, compare, interleave, publish

NOVELS = Path(__file__).parents[2] / "shared" / "data" / "litbank_novels"
ROUNDS, WARM_UP = 6, 2
ORIGINALS, COPIES, CHARACTERS = 800, 200, 3450
NGRAM, BANDS, ROWS = 5, 14, 8
PASSAGE_BYTES = 1 << 22
BAR = 10.0
FOUND = "DEDUP_BENCH_FOUND"
"""Names the file in the environment to which a worker writes what it dropped and which pairs met."""


def corpus() -> tuple[list[str], dict[int, int]]:
    """The documents, and for each changed copy the original: {row: row}."""
    pieces: list[str] = []
    for path in sorted(NOVELS.glob("*.parquet")):
        for text in pq.read_table(path, columns=["text"])["text"].to_pylist():
            pieces += [text[at : at + CHARACTERS] for at in range(0, len(text) - CHARACTERS, CHARACTERS)]
    rng = random.Random(0)
    rng.shuffle(pieces)
    documents = pieces[:ORIGINALS]
    copies = {}
    for copy, original in enumerate(rng.sample(range(ORIGINALS), COPIES), ORIGINALS):
        rate = rng.uniform(0.001, 0.03)  # of words: a likeness of 0.99 to 0.75
        words = [w if rng.random() > rate else f"{w}x" for w in documents[original].split(" ")]
        documents.append(" ".join(words))
        copies[copy] = original
    return documents, copies


def take_turns(signatures: Callable[[], Any], rest: Callable[[Any], list[int]]) -> None:
    """Steps in turn: signatures, then the rest, which answers with the first of each one's cluster."""
    pace = Pace(WARM_UP)
    while True:
        made = signatures()
        pace()
        clusters = rest(made)
        Path(os.environ[FOUND]).write_text(json.dumps(clusters))
        pace()


def run_ours() -> None:
    from modelwright.data.dedup.cluster import Config as ClusterConfig
    from modelwright.data.dedup.cluster import cluster
    from modelwright.data.dedup.minhash import Config, band_keys, signatures

    documents, _ = corpus()
    config = Config(ngram=NGRAM, bands=BANDS, rows=ROWS)
    with tempfile.TemporaryDirectory() as folder:

        def rest(made: np.ndarray) -> list[int]:
            return cluster([band_keys(made, config)], ClusterConfig(), Path(folder)).parent.tolist()

        take_turns(lambda: signatures(documents, config), rest)


def run_datatrove(language: str) -> None:
    import xxhash
    from datatrove.data import Document
    from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.utils.logging import logger

    logger.remove()
    documents = [Document(text=text, id=str(row)) for row, text in enumerate(corpus()[0])]
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    with tempfile.TemporaryDirectory() as folder:
        signed, pairs, out = (f"{folder}/{name}" for name in ("signatures", "pairs", "remove"))

        def signatures() -> None:
            step = MinhashDedupSignature(signed, config, language)
            step._hash_func = lambda text: xxhash.xxh64_intdigest(text.encode())
            step.run(iter(documents))

        def rest(_: None) -> list[int]:
            for band in range(BANDS):
                MinhashDedupBuckets(signed, pairs, config=config).run(None, band, BANDS)
            MinhashDedupCluster(pairs, out, config=config, save_cluster_id=True).run()
            return read_datatrove(Path(out), len(documents))

        take_turns(signatures, rest)


def read_datatrove(folder: Path, count: int) -> list[int]:
    """What its cluster step wrote: (document, cluster) pairs."""
    first = list(range(count))
    leaders: dict[int, int] = {}
    for path in sorted(folder.rglob("*.clusters")):
        for row, name in np.fromfile(path, "<u4").reshape(-1, 2).tolist():
            first[row] = leaders.setdefault(name, row)
    return first


def tokens(text: str) -> list[bytes]:
    """Runs of words for those that take them ready-made."""
    words = text.lower().split()
    return [" ".join(words[at : at + NGRAM]).encode() for at in range(max(len(words) - NGRAM + 1, 1))]


def run_datasketch() -> None:
    import xxhash
    from datasketch import MinHash, MinHashLSH

    documents, _ = corpus()

    def signatures() -> list[Any]:
        made = []
        for text in documents:
            made.append(MinHash(BANDS * ROWS, 1, hashfunc=xxhash.xxh32_intdigest, scheme="affine32"))
            made[-1].update_batch(tokens(text))
        return made

    def rest(made: list[Any]) -> list[int]:
        index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
        first = list(range(len(made)))
        for row, each in enumerate(made):
            met: list[Any] = index.query(each)
            if met:
                first[row] = first[min(met)]
            index.insert(row, each)
        return first

    take_turns(signatures, rest)


def run_rensa() -> None:
    import rensa

    documents, copies = corpus()
    originals = set(copies.values())

    def signatures() -> Any:
        made = (tokens(text) for text in documents)
        return rensa.RMinHash.digest_matrix_from_token_byte_sets(list(made), BANDS * ROWS, 1)

    def rest(made: Any) -> list[int]:
        """It flags whatever has met another, and does not say which: copies are taken to have met their
        originals, and other documents wrongly dropped unless they are the originals of copies."""
        flags = rensa.RMinHashLSH(0.72, BANDS * ROWS, BANDS).query_duplicate_flags_matrix_one_shot(made)
        first = list(range(len(flags)))
        for row in np.flatnonzero(flags).tolist():
            first[row] = copies.get(row, row if row in originals else -1)
        return first

    take_turns(signatures, rest)


def passages() -> list[bytes]:
    """Documents of `PASSAGE_BYTES` in all, originals and copies mixed."""
    documents = [text.encode() for text in corpus()[0]]
    random.Random(1).shuffle(documents)
    return documents[: PASSAGE_BYTES // CHARACTERS]


def run_passages() -> None:
    from modelwright.data.dedup.ranges import Texts
    from modelwright.data.dedup.substring import Config, repeated

    units = [Texts.of([text.decode() for text in passages()])]
    pace = Pace(WARM_UP)
    while True:
        (made,) = repeated(units, Config())
        Path(os.environ[FOUND]).write_text(json.dumps(int(np.sum(made.end - made.start))))
        pace()


def run_suffix_array() -> None:
    from pydivsufsort import divsufsort, kasai

    documents = passages()
    ends = np.cumsum([len(text) for text in documents])
    joined = np.frombuffer(bytearray(b"".join(documents)), np.uint8)
    room = np.repeat(ends, [len(text) for text in documents]) - np.arange(len(joined))
    pace = Pace(WARM_UP)
    while True:
        order = divsufsort(joined)
        common = np.minimum(kasai(joined, order)[:-1], np.minimum(room[order[:-1]], room[order[1:]]))
        group = np.cumsum(np.concatenate([[True], common < 100])) - 1
        heads = np.flatnonzero(np.diff(group, prepend=-1))
        first = np.minimum.reduceat(order, heads)[group]
        windows = np.sort(order[(order - first >= 100) & (room[order] >= 100)])
        covered = np.zeros(len(joined) + 1, np.int64)
        np.add.at(covered, windows, 1)
        np.add.at(covered, windows + 100, -1)
        total = int(np.sum(np.cumsum(covered) > 0))
        Path(os.environ[FOUND]).write_text(json.dumps(total))
        pace()


WORKERS: dict[str, Callable[[], None]] = {
    "ours": run_ours,
    "datatrove": lambda: run_datatrove("eng"),
    "datatrove, generic tokenizer": lambda: run_datatrove("aze_Arab"),
    "datasketch": run_datasketch,
    "rensa": run_rensa,
}
PASSAGES = {"ours": run_passages, "libdivsufsort": run_suffix_array}


def quality(clusters: list[int], copies: dict[int, int]) -> tuple[float, float]:
    """(planted found, rightly dropped) in percent."""
    found = sum(clusters[copy] == clusters[original] for copy, original in copies.items())
    dropped = [row for row, first in enumerate(clusters) if first != row]
    right = sum(row in copies for row in dropped)
    return 100 * found / len(copies), 100 * right / max(len(dropped), 1)


def race(table: dict[str, Any], kind: str, folder: str, rounds: int) -> tuple[dict[str, list[float]], dict]:
    files = {name: Path(folder) / f"{kind}-{number}.json" for number, name in enumerate(table)}
    commands = {
        name: ["env", f"{FOUND}={files[name]}", sys.executable, __file__, kind, name] for name in table
    }
    seconds = interleave(commands, rounds)
    return seconds, {name: json.loads(path.read_text()) for name, path in files.items()}


def rows_of_clusters(folder: str) -> Iterator[Row]:
    documents, copies = corpus()
    seconds, found = race(WORKERS, "clusters", folder, 2 * ROUNDS)
    size = len(documents)
    signing = {name: [size / s for s in steps[::2]] for name, steps in seconds.items()}
    whole = {
        name: [size / (a + b) for a, b in zip(steps[::2], steps[1::2], strict=True)]
        for name, steps in seconds.items()
    }
    ours = quality(found["ours"], copies)
    for peer in list(WORKERS)[1:]:
        bar = None if peer == "rensa" else BAR
        yield compare("signatures", "documents/s", signing["ours"], signing[peer], peer, None)
        yield compare("signatures and clusters", "documents/s", whole["ours"], whole[peer], peer, bar)
        for name, mine, theirs in zip(
            ("planted found", "rightly dropped"), ours, quality(found[peer], copies), strict=True
        ):
            yield compare(name, "%", [mine], [max(theirs, 1e-9)], peer, None)


def rows_of_passages(folder: str) -> Iterator[Row]:
    size = sum(map(len, passages())) / 1e3
    seconds, found = race(PASSAGES, "passages", folder, ROUNDS)
    rates = {name: [size / step for step in steps] for name, steps in seconds.items()}
    yield compare("exact passages", "kB/s", rates["ours"], rates["libdivsufsort"], "libdivsufsort", None)
    mine, theirs = found["ours"], found["libdivsufsort"]
    yield compare("bytes in passages", "bytes", [mine], [theirs], "libdivsufsort", None)


def main() -> None:
    """Run all, publish."""
    os.environ |= {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[0]})  # and for all that are started
    with tempfile.TemporaryDirectory() as folder:
        rows = [*rows_of_clusters(folder), *rows_of_passages(folder)]
    packages = ("numpy", "datatrove", "spacy", "datasketch", "rensa", "xxhash", "pydivsufsort")
    publish("dedup", rows, packages, " ".join((__doc__ or "").split()))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        ({"clusters": WORKERS, "passages": PASSAGES}[sys.argv[1]])[sys.argv[2]]()
    else:
        main()

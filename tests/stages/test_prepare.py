"""prepare and tokenize on small folders, on atlas, and on real text: what comes out, and why not."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import validate
from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import sha256_file
from modelwright.base.run import Run
from modelwright.data.corpus import read_corpus
from modelwright.stages import prepare, tokenize
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards


def run_prepare(folder: Path, seed: int = 1, **settings: Any) -> Artifact:
    config = validate(prepare.Config, settings, "data")
    run = Run(folder, "prepare", "corpus", config, seed)
    try:
        return prepare.run(config, run)
    finally:
        run.close()


def run_tokenize(folder: Path, corpus: Artifact, **settings: Any) -> Artifact:
    config = validate(tokenize.Config, settings, "tokenizer")
    run = Run(folder, "tokenize", "tokens", config, 1, {"corpus": corpus})
    try:
        return tokenize.run(config, run)
    finally:
        run.close()


def dropped_rows(made: Artifact) -> list[dict[str, Any]]:
    return pq.read_table(made.file("dropped")).to_pylist()


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(40):
        body = "".join(f"Line {line} of text {number}.\n" for line in range(12))
        (folder / f"{number:02d}.txt").write_text(body, encoding="utf-8")
    (folder / "again.txt").write_bytes((folder / "07.txt").read_bytes())
    (folder / "empty.md").write_bytes(b"")
    return folder


def test_documents_arrive_whole_and_counted(texts: Path, tmp_path: Path) -> None:
    source = {"path": str(texts), "licence": "MIT", "jurisdiction": "DE", "personal_data": False}
    made = run_prepare(tmp_path / "p", sources=[source], validation_fraction=0.2)
    train, validation = (list(read_corpus(made.file(side))) for side in ("train", "validation"))
    assert len(train) + len(validation) == 40 and len(validation) > 1
    originals = {path.read_text(encoding="utf-8") for path in texts.glob("*.txt")}
    assert {document.text for document in train + validation} == originals
    assert made.metrics["train_documents"] == len(train)
    assert made.metrics["validation_bytes"] == sum(len(d.text.encode()) for d in validation)
    assert made.metrics["dropped"] == {"empty": 1, "exact duplicate": 1} and made.metrics["skipped"] == {}
    steps = {step["step"]: step["documents"] for step in made.metrics["steps"]}
    assert steps == {
        "read": 42, "empty": 41, "cut": 41, "policy": 41, "duplicates": 40, "decontaminate": 40,
    }  # fmt: skip
    provenance = made.manifest.provenance
    assert (provenance.licences, provenance.jurisdictions) == ({"MIT": 40}, {"DE": 40})
    assert provenance.personal_data == {"no": 40} and provenance.sources == {str(texts): 40}
    assert {(row["place"], row["step"]) for row in dropped_rows(made)} == {
        ("again.txt", "duplicates"),
        ("empty.md", "empty"),
    }
    recorded = json.loads(made.file("sources.json").read_text())
    assert len(recorded) == 42 and recorded[0]["sha256"] == sha256_file(texts / "00.txt")


def test_the_same_input_gives_the_same_artifact(texts: Path, tmp_path: Path) -> None:
    ids = {run_prepare(tmp_path / name, sources=[str(texts)]).id for name in ("a", "b")}
    assert len(ids) == 1


def test_the_mark_changes_with_the_files(texts: Path) -> None:
    config = validate(prepare.Config, {"sources": [str(texts), "atlas"]}, "data")
    before = prepare.sources(config)
    assert prepare.sources(config) == before
    (texts / "00.txt").write_text("changed", encoding="utf-8")
    changed = prepare.sources(config)
    (texts / "new.txt").write_text("new", encoding="utf-8")
    assert len({before, changed, prepare.sources(config)}) == 3


def test_a_broken_file_stops_or_is_a_counted_skip(texts: Path, tmp_path: Path) -> None:
    (texts / "bad.jsonl").write_text('{"text": "fine"}\n{"text": \n', encoding="utf-8")
    (texts / "cut.txt.gz").write_bytes(gzip.compress(b"x" * 1000)[:-3])
    with pytest.raises(DamagedFile, match=r"bad\.jsonl, line 2: not valid JSON"):
        run_prepare(tmp_path / "fail", sources=[str(texts)])
    assert not (tmp_path / "fail" / "train").exists() and not (tmp_path / "fail" / "manifest.json").exists()
    made = run_prepare(tmp_path / "skip", sources=[str(texts)], on_error="skip")
    assert made.metrics["skipped"] == {"file truncated or garbled": 1, "not JSON": 1}
    skipped = {row["place"].rsplit("/", 1)[-1] for row in dropped_rows(made) if row["step"] == "read"}
    assert skipped == {"bad.jsonl, line 2", "cut.txt.gz"}


def test_filters_come_from_the_recipe(texts: Path, tmp_path: Path) -> None:
    (texts / "short.txt").write_text("Hi", encoding="utf-8")
    filters = [{"name": "length", "min_characters": 10}]
    made = run_prepare(tmp_path / "p", sources=[str(texts)], filters=filters)
    assert made.metrics["dropped"]["too short"] == 1
    with pytest.raises(ConfigError, match="no filter 'languages'"):
        run_prepare(tmp_path / "q", sources=[str(texts)], filters=[{"name": "languages"}])


def test_when_nothing_is_left_it_says_where_all_went(texts: Path, tmp_path: Path) -> None:
    filters = [{"name": "length", "min_characters": 10_000}]
    with pytest.raises(UserError, match=r"no document is left.*\n.*length 0.*too short 41") as error:
        run_prepare(tmp_path / "p", sources=[str(texts)], filters=filters)
    assert "empty 1" in str(error.value)
    with pytest.raises(UserError, match=r"data\.sources is empty"):
        run_prepare(tmp_path / "q", sources=[])
    with pytest.raises(ConfigError, match="licens: unknown setting"):
        run_prepare(tmp_path / "r", sources=[{"path": str(texts), "licens": "MIT"}])


def test_atlas_is_the_default_and_depends_on_the_seed(tmp_path: Path) -> None:
    one, again, other = (
        run_prepare(tmp_path / name, seed, atlas_size_bytes=60_000)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.id == again.id != other.id
    assert 50_000 < one.metrics["train_bytes"] + one.metrics["validation_bytes"] < 70_000
    assert one.metrics["validation_documents"] >= 1
    assert set(one.manifest.provenance.sources) == {"atlas"}


def test_one_book_gives_both_sides_and_lossless_shards(shared_data: Path, tmp_path: Path) -> None:
    book = shared_data / "tinyshakespeare" / "input.txt.gz"
    settings = {"max_document_characters": 5000, "validation_fraction": 0.05}
    corpus = run_prepare(tmp_path / "p", sources=[str(book)], **settings)
    assert corpus.metrics["train_bytes"] + corpus.metrics["validation_bytes"] == 1_115_394
    made = run_tokenize(tmp_path / "t", corpus, vocab_size=512, sample_bytes=100_000)
    tokenizer = BPETokenizer.load(made.file("tokenizer"))
    for side in ("train", "validation"):
        documents = list(read_corpus(corpus.file(side)))
        shards = TokenShards.open(made.file(side))
        shards.verify()
        assert shards.num_documents == len(documents) == made.metrics[f"{side}_documents"]
        assert len(shards) == made.metrics[f"{side}_tokens"]
        assert shards.num_bytes == corpus.metrics[f"{side}_bytes"]
        edges = shards.boundaries
        for number, document in enumerate(documents):
            ids = shards.read(int(edges[number]), int(edges[number + 1] - edges[number])).tolist()
            assert ids[-1] == tokenizer.end_of_text_id
            assert tokenizer.decode(ids[:-1]) == document.text
            assert shards.document_of(int(edges[number])) == (document.id, document.source)
    assert 1.5 < made.metrics["train_bytes_per_token"] < 4
    assert made.metrics["bytes_per_token_by_source"].keys() == {book.as_posix()}
    assert made.manifest.provenance == corpus.manifest.provenance


def test_tokenize_is_repeatable_and_says_when_text_is_short(texts: Path, tmp_path: Path) -> None:
    corpus = run_prepare(tmp_path / "p", sources=[str(texts)])
    one, two = (run_tokenize(tmp_path / name, corpus, vocab_size=4096, shard_tokens=100) for name in "ab")
    assert one.id == two.id
    assert 259 < one.metrics["vocab_size"] < 4096
    assert "the text holds too little for a vocabulary of 4,096" in (tmp_path / "a" / "log.txt").read_text()
    assert TokenShards.open(one.file("train")).vocab_size == one.metrics["vocab_size"]
    assert len(list((tmp_path / "a" / "train").glob("*.tokens.bin"))) > 2


def test_tokenize_names_a_damaged_corpus(texts: Path, tmp_path: Path) -> None:
    corpus = run_prepare(tmp_path / "p", sources=[str(texts)])
    shard = next(corpus.file("train").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-5])
    with pytest.raises(DamagedFile, match=r"000000\.parquet .* cannot be read"):
        run_tokenize(tmp_path / "t", corpus)

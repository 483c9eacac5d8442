"""tokenize: what is learned from, what the shards hold, and which tokenizers it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config, validate
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import sha256_text
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.data.corpus import write_corpus
from modelwright.stages import tokenize
from modelwright.stages.balance import Balance, count_groups, sample
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards


def document(text: str, source: str = "a.txt", **meta: str) -> Document:
    return Document(text=text, id=sha256_text(text), source=source, meta=meta)


TRAIN = [document(f"The {n}th cat sat on mat {n * n}.", language="en") for n in range(80)]
TRAIN += [document(f"Die {n}. Katze saß auf Matte {n}.", "b.txt", language="de") for n in range(20)]
HELD_OUT = [document("A cat that nobody has seen, für 12 Füchse 😀.", "c.txt")]


def corpus(folder: Path, train: Sequence[Document] = TRAIN) -> Artifact:
    run = Run(folder, "prepare", "corpus", Config(), 0)
    metrics: dict[str, Any] = {}
    for side, documents in (("train", train), ("validation", HELD_OUT)):
        with write_corpus(folder / side) as writer:
            for one in documents:
                writer.add(one)
        metrics[f"{side}_documents"] = len(documents)
        metrics[f"{side}_bytes"] = sum(len(one.text.encode()) for one in documents)
    return run.finish(["train", "validation"], metrics)


def tokenized(folder: Path, settings: dict[str, Any], train: Sequence[Document] = TRAIN) -> Artifact:
    made = corpus(folder / "prepare", train)
    config = validate(tokenize.Config, settings, "test")
    run = Run(folder / "tokenize", "tokenize", "tokens", config, 0, {"corpus": made})
    try:
        return tokenize.run(config, run)
    finally:
        run.close()


def test_every_document_is_in_the_shards_whole(tmp_path: Path) -> None:
    made = tokenized(tmp_path, {"vocab_size": 320, "shard_tokens": 500})
    tokenizer, shards = BPETokenizer.load(made.file("tokenizer")), TokenShards.open(made.file("train"))
    shards.verify()
    read = [shards.read(a, b - a).tolist() for a, b in pairwise(shards.boundaries.tolist())]
    assert [tokenizer.decode(ids[:-1]) for ids in read] == [one.text for one in TRAIN]
    assert {ids[-1] for ids in read} == {tokenizer.end_of_text_id}
    assert shards.num_bytes == sum(len(one.text.encode()) for one in TRAIN)
    assert made.metrics["train_tokens"] == len(shards)
    assert [shards.document(n) for n in (0, 99)] == [(one.id, one.source) for one in (TRAIN[0], TRAIN[99])]


def test_settings_reach_the_tokenizer(tmp_path: Path) -> None:
    special = {"special_tokens": ["<|tool|>"], "reserved_tokens": 2}
    made = tokenized(tmp_path, {"vocab_size": 300, "pattern": "llama-bpe", **special})
    tokenizer = BPETokenizer.load(made.file("tokenizer"))
    assert tokenizer.special_ids["<|tool|>"] == 3 and tokenizer.special_ids["<|reserved_1|>"] == 5
    assert tokenizer.cut is not None and tokenizer.cut.gguf_name == "llama-bpe"
    assert "llama-bpe" in made.manifest.environment["tokenizer"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pattern": "qwen"}, "qwen2"),
        ({"special_tokens": ["word"]}, "expected letters between signs"),
        ({"vocab_size": 260, "reserved_tokens": 9}, "too small for 256 bytes"),
        ({"balance": {"shares": {"en": 0.8, "de": 0.4}}}, "at most 1 in all"),
        ({"balance": {"temperature": 0.5}}, "greater than or equal to 1"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(tokenize.Config, settings, "test")


def test_starting_from_a_tokenizer(tmp_path: Path) -> None:
    first = tokenized(tmp_path / "a", {"vocab_size": 300})
    start = {"path": str(first.file("tokenizer"))}
    second = tokenized(tmp_path / "b", {"start_from": start}, TRAIN[:5])
    for file in ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        assert (first.path / file).read_bytes() == (second.path / file).read_bytes()
    with pytest.raises(UserError, match="holds no tokenizer"):
        tokenized(tmp_path / "c", {"start_from": {"path": str(tmp_path / "nowhere")}})


def test_what_it_starts_from_is_part_of_its_mark(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("a")
    config = validate(tokenize.Config, {"start_from": {"path": str(tmp_path)}}, "test")
    before = tokenize.sources(config)
    file.write_text("b")
    assert before != tokenize.sources(config) != ""
    assert tokenize.sources(tokenize.Config()) == ""


def test_shares_decide_what_is_learned(tmp_path: Path) -> None:
    words = [document(f"alpha {n} " * 20, language="en") for n in range(300)]
    words += [document(f"omega {n} " * 20, language="el") for n in range(300)]
    for share, expected, absent in ((0.0, "alpha", "omega"), (1.0, "omega", "alpha")):
        settings = {"vocab_size": 300, "balance": {"shares": {"el": share, "en": 1 - share}}}
        made = tokenized(tmp_path / str(share), settings, words)
        tokens = {t.lstrip("\u0120") for t in BPETokenizer.load(made.file("tokenizer")).tokens}
        assert expected in tokens and absent not in tokens


def sampled(documents: Sequence[Document], balance: Balance, total: int) -> dict[str, int]:
    rates = balance.rates(count_groups(documents, balance), total)
    found: dict[str, int] = {}
    known = {one.text: balance.group(one) for one in documents}
    for text in sample(documents, rates, balance):
        found[known[text]] = found.get(known[text], 0) + len(text.encode())
    return found


def test_the_sample_has_the_shares_that_were_asked_for() -> None:
    documents = [document(f"{n:05d}" * 10, language="en") for n in range(4000)]
    documents += [document(f"x{n:04d}" * 10, language="de") for n in range(1000)]
    documents += [document(f"yy{n:03d}" * 10, language="fr") for n in range(200)]
    total = 100_000
    found = sampled(documents, Balance(shares={"de": 0.4}, most_repeats=50), total)
    assert found["de"] / total == pytest.approx(0.4, rel=0.1)
    assert found["en"] / found["fr"] == pytest.approx(20, rel=0.35)
    even = sampled(documents, Balance(temperature=1e9, most_repeats=50), total)
    assert all(size / total == pytest.approx(1 / 3, rel=0.15) for size in even.values())
    capped = sampled(documents, Balance(shares={"fr": 1.0}, most_repeats=2), total)
    assert capped == {"fr": 2 * 200 * 50}
    by_source = Balance(by="source", shares={"b*": 0.5})
    assert [by_source.group(document("t", source)) for source in ("book", "atlas")] == ["b*", "atlas"]


@given(st.permutations(TRAIN[60:90]))
def test_order_does_not_change_the_sample(documents: list[Document]) -> None:
    balance = Balance(shares={"de": 0.5})
    rates = balance.rates(count_groups(documents, balance), 500)
    in_order = sample(TRAIN[60:90], balance.rates(count_groups(TRAIN[60:90], balance), 500), balance)
    assert sorted(sample(documents, rates, balance)) == sorted(in_order)

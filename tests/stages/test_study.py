"""The study of vocabularies: every cell once, figures that add up, and a reason for what it recommends."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.cli import main
from modelwright.data.corpus import write_corpus
from modelwright.stages import pretrain, study, tokenize
from modelwright.stages.parallel_text import read_parallel
from modelwright.stages.study_findings import Size, recommend
from modelwright.tokenizer.fertility import Fertility

SETTINGS: dict[str, Any] = {
    "vocab_sizes": [300, 280],
    "train_bytes": 2_000,
    "validation_bytes": 500,
    "step_bytes": 128,
    "target": {"depth": 2, "hidden_size": 64, "head_dim": 32},
    "pretrain": {
        "model": {"depth": 1, "hidden_size": 32, "head_dim": 16, "max_position_embeddings": 32},
        "context": 16, "compute": {"device": "cpu", "dtype": "float32", "compile": "never"},
    },
}  # fmt: skip
PARALLEL = {
    "eng": "All human beings are born free.",
    "deu": "Alle Menschen sind frei geboren.",
    "tha": "มนุษย์ทั้งหลาย",
}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "prepare"
    run = Run(folder, "prepare", "corpus", Config(), 0)
    metrics: dict[str, Any] = {}
    for side, numbers in (("train", range(60)), ("validation", range(60, 70))):
        texts = [f"All {n} human beings are born {n:b} free and equal in dignity." for n in numbers]
        texts = [text.translate({48: "tari", 49: "mono"}) for text in texts]
        with write_corpus(folder / side) as writer:
            for text in texts:
                writer.add(Document(text=text, id=sha256_text(text), source="x"))
        metrics |= {f"{side}_documents": len(texts), f"{side}_bytes": sum(len(t.encode()) for t in texts)}
    run.finish(["train", "validation"], metrics)
    return folder


@pytest.fixture
def parallel(tmp_path: Path) -> Path:
    path = tmp_path / "parallel.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for language, text in PARALLEL.items():
            print(json.dumps({"language": language, "text": text}), file=file)
    return path


def test_a_study_compares_and_recommends(corpus: Path, parallel: Path, tmp_path: Path) -> None:
    made = study.study(tmp_path / "study", corpus, SETTINGS | {"parallel": str(parallel)}, 0)
    found = json.loads((made.path / "study.json").read_text())
    assert [row["vocab_size"] for row in found["sizes"]] == [280, 300]
    small, large = found["sizes"]
    assert small["tokens"] > large["tokens"] and small["bytes_per_token"] < large["bytes_per_token"]
    assert small["embedding_parameters"] == 280 * 64 and 0 < small["embedding_share"] < 1
    assert all(0 < row["bits_per_byte"] < 20 and row["model_parameters"] for row in found["sizes"])
    assert large["model_parameters"] - small["model_parameters"] == 20 * 32
    premiums = {row["language"]: row["premium"] for row in found["languages"] if row["vocab_size"] == 300}
    assert premiums.keys() == PARALLEL.keys()
    assert premiums["eng"] == 1.0 and premiums["tha"] > premiums["deu"] > 1
    assert found["recommendation"]["vocab_size"] in (280, 300)
    assert made.metrics["recommended_vocab_size"] == found["recommendation"]["vocab_size"]
    page = (made.path / "study.html").read_text()
    assert page.count("<svg") == 4 and "<script" not in page and "tha" in page
    for reason in found["recommendation"]["reasons"]:
        assert reason.split(".")[0].replace("'", "&#x27;") in page


def test_it_goes_on_where_it_was(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(stage: Any, name: str, fail_at: int = 99) -> Callable[..., Artifact]:
        original = stage.run

        def run(*arguments: Any) -> Artifact:
            calls.append(name)
            if calls.count("pretrain") == fail_at:
                raise KeyboardInterrupt
            return original(*arguments)

        return run

    with monkeypatch.context() as patch:
        patch.setattr(tokenize, "run", counted(tokenize, "tokenize"))
        patch.setattr(pretrain, "run", counted(pretrain, "pretrain", fail_at=2))
        with pytest.raises(KeyboardInterrupt):
            study.study(tmp_path / "study", corpus, SETTINGS, 0)
    assert calls == ["tokenize", "pretrain"] * 2
    calls.clear()
    monkeypatch.setattr(tokenize, "run", counted(tokenize, "tokenize"))
    monkeypatch.setattr(pretrain, "run", counted(pretrain, "pretrain"))
    resumed = study.study(tmp_path / "study", corpus, SETTINGS, 0)
    assert calls == ["pretrain"]
    whole = study.study(tmp_path / "again", corpus, SETTINGS, 0)
    assert (resumed.path / "study.json").read_bytes() == (whole.path / "study.json").read_bytes()


def test_without_models_length_decides(corpus: Path, tmp_path: Path) -> None:
    settings = SETTINGS | {"train_bytes": 0, "vocab_sizes": [270, 300, 5000, 6000]}
    made = study.study(tmp_path / "study", corpus, settings, 0)
    found = json.loads((made.path / "study.json").read_text())
    assert [row["bits_per_byte"] for row in found["sizes"]] == [None] * 3  # 5,000 and 6,000 come out the same
    assert [row["vocab_size"] for row in found["sizes"]][:2] == [270, 300]
    assert found["recommendation"]["vocab_size"] >= 300
    assert not list((made.path / "cells").glob("*pretrain*"))


def size(vocab_size: int, tokens: int, bits: float | None = None) -> Size:
    fertility = Fertility(bytes=1000, characters=1000, words=200, tokens=tokens, broken_bytes=0)
    return Size(
        vocab_size=vocab_size, fertility=fertility, unused=0, embedding_parameters=vocab_size * 64,
        target_parameters=1_000_000, bits_per_byte=bits,
    )  # fmt: skip


def test_the_smallest_of_equals_is_recommended() -> None:
    chosen = recommend([size(4096, 260, 1.203), size(1024, 400, 1.30), size(2048, 300, 1.205)])
    assert chosen.vocab_size == 2048 and "1.2050 against 1.2030" in chosen.reasons[0]
    last = recommend([size(1024, 400, 1.30), size(2048, 300, 1.2)])
    assert "has the best bits per byte (1.2000)" in last.reasons[0]
    assert last.vocab_size == 2048 and any("largest that was tried" in reason for reason in last.reasons)
    assert recommend([size(1024, 400), size(2048, 300), size(4096, 290)]).vocab_size == 2048
    first = recommend([size(1024, 400, 1.2), size(2048, 300, 1.3)])
    assert first.vocab_size == 1024 and any("smallest that was tried" in reason for reason in first.reasons)
    heavy = recommend([size(8192, 100)])
    assert "52% of the target: a deeper target" in heavy.reasons[1]


def test_the_declaration_is_read(shared_data: Path) -> None:
    texts = read_parallel(shared_data / "udhr" / "udhr_articles.jsonl.gz", "eng")
    assert len(texts) > 430 and texts["eng"].startswith("All human beings")
    assert {"srp-Cyrl", "srp-Latn"} <= texts.keys()


def test_bad_parallel_text_is_named(parallel: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text in the language 'fra'"):
        read_parallel(parallel, "fra")
    with pytest.raises(UserError, match="is no file"):
        read_parallel(tmp_path / "nowhere", "eng")
    bad = tmp_path / "bad.jsonl"
    good = b'{"language": "eng", "text": "free"}\n'
    for content in (b'{"language": "eng"}\n', b"[]\n", b"\xff\n", b"{"):
        bad.write_bytes(good + good + content)
        with pytest.raises(DamagedFile, match="row 3: expected a JSON object"):
            read_parallel(bad, "eng")
    whole = parallel.read_bytes()
    parallel.write_bytes(whole[:-20])
    with pytest.raises(DamagedFile):
        read_parallel(parallel, "eng")


def test_mistakes_are_found_before_any_work(
    tmp_path: Path, parallel: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert study.check({"vocab_sizes": ["300", "280"], "parallel": parallel}).vocab_sizes == (300, 280)
    for mistake, says in (
        (["--sizes", "1k,2048"], "received '1k'"),
        (["--parallel", "nowhere"], "nowhere is no file"),
    ):
        assert main(["tokenize", "study", "tiny", *mistake]) > 0
        assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

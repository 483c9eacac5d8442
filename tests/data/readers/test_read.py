"""Reading whole and broken files: each fault names its place, or is skipped and counted."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Document
from modelwright.data.readers import streams
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import find_files
from modelwright.data.readers.read import read
from modelwright.data.readers.source import Source

LINES = [{"text": "one", "title": "T", "score": 0.5}, {"text": "zwei ü 😀", "tags": ["x"]}]
JSONL = "\n".join(json.dumps(line) for line in LINES).encode() + b"\n"


def documents(path: Path, faults: Faults | None = None, **settings: Any) -> list[Document]:
    return list(read(Source(path=str(path), **settings), faults or Faults()))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def parquet(path: Path, table: dict[str, Any], row_group_size: int = 2) -> Path:
    pq.write_table(pa.table(table), path, row_group_size=row_group_size)
    return path


ZSTD = zstandard.ZstdCompressor()
TEXT = "Erste Zeile\nzweite: ü 😀\n"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.txt", bytes),
        ("a.md", bytes),
        ("a.TXT", bytes),
        ("a.txt.gz", gzip.compress),
        ("a.md.zst", ZSTD.compress),
    ],
)
def test_plain_text_is_one_document(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    path = put(tmp_path / name, pack(TEXT.encode()))
    (document,) = documents(path, licence="CC0-1.0", jurisdiction="DE", personal_data=False)
    assert (document.text, document.id, document.source) == (TEXT, sha256_text(TEXT), str(path))
    assert dict(document.meta) == {"file": name}
    assert (document.licence, document.jurisdiction, document.personal_data) == ("CC0-1.0", "DE", False)


def test_byte_order_marks_and_windows_line_ends_go(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"\xef\xbb\xbfa\r\nb\r\n")
    assert documents(path)[0].text == "a\nb\n"


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.jsonl", bytes),
        ("a.ndjson", bytes),
        ("a.jsonl.gz", gzip.compress),
        ("a.jsonl.zst", ZSTD.compress),
        ("two_frames.jsonl.zst", lambda raw: ZSTD.compress(raw[:9]) + ZSTD.compress(raw[9:])),
        ("mark_and_blanks.jsonl", lambda raw: b"\xef\xbb\xbf" + raw.replace(b"\n", b"\r\n")),
    ],
)
def test_json_lines(tmp_path: Path, name: str, pack: Callable[[bytes], bytes]) -> None:
    one, two = documents(put(tmp_path / name, pack(JSONL)))
    assert (one.text, dict(one.meta)) == ("one", {"file": name, "line": 1, "title": "T", "score": 0.5})
    assert (two.text, dict(two.meta)) == ("zwei ü 😀", {"file": name, "line": 2})


def test_parquet_rows_count_over_row_groups(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"body": list("abcde"), "raw": [b"x"] * 5, "year": range(5)})
    read_back = documents(path, text_field="body")
    assert [document.text for document in read_back] == list("abcde")
    assert [dict(document.meta) for document in read_back][3] == {"file": "a.parquet", "row": 4, "year": 3}


def test_rows_know_their_own_licence_where_the_source_says_none(tmp_path: Path) -> None:
    row = {"text": "x", "license": "MIT", "jurisdiction": "FR", "personal_data": True}
    path = put(tmp_path / "a.jsonl", json.dumps(row).encode())
    (own,) = documents(path)
    assert (own.licence, own.jurisdiction, own.personal_data) == ("MIT", "FR", True)
    (told,) = documents(path, licence="CC0-1.0", personal_data=False)
    assert (told.licence, told.jurisdiction, told.personal_data) == ("CC0-1.0", "FR", False)


def test_html_in_files_and_in_fields(tmp_path: Path) -> None:
    page = "<html><nav>menu</nav><p>Grüße</p></html>"
    assert documents(put(tmp_path / "a.html", page.encode()))[0].text == "Grüße"
    put(tmp_path / "b.html", ('<meta charset="ISO-8859-1">' + page).encode("latin-1"))
    assert documents(tmp_path / "b.html")[0].text == "Grüße"
    put(tmp_path / "c.jsonl", json.dumps({"page": page}).encode())
    assert documents(tmp_path / "c.jsonl", text_field="page", html=True)[0].text == "Grüße"


# What is broken: (file name, bytes, part of the message, kind it is counted by, documents that survive).
GOOD_LINES = JSONL * 40
BROKEN = [
    ("a.txt", b"one\ntwo \xff\xfe\n", r"a\.txt, line 2: byte 0xff at 8 is not UTF-8", "not UTF-8", 0),
    (
        "a.txt.gz",
        gzip.compress(b"x" * 9000, mtime=0)[:-9],
        "truncated or garbled",
        "file truncated or garbled",
        0,
    ),
    ("a.txt.gz", b"no gzip at all", "truncated or garbled", "file truncated or garbled", 0),
    ("a.txt.zst", ZSTD.compress(b"x" * 9000)[:-4], "truncated", "file truncated or garbled", 0),
    ("a.txt.zst", b"no zstandard", "truncated or garbled", "file truncated or garbled", 0),
    ("a.jsonl", JSONL + b'{"text": "cut o', r"a\.jsonl, line 3: not valid JSON", "not JSON", 2),
    ("a.jsonl", JSONL + b"\n[1]\n" + JSONL, r"line 4: a JSON list, expected an object", "not an object", 4),
    ("a.jsonl", JSONL + b'{"text": "\xff"}\n' + JSONL, r"line 3: not valid UTF-8 at byte 10", "not UTF-8", 4),
    ("a.jsonl", b'{"text": 7}\n' + JSONL, "line 1: the text is int", "text is no string", 2),
    ("a.jsonl", b'{"text": "\\ud800"}\n' + JSONL, "line 1: half a surrogate pair", "not Unicode", 2),
    (
        "a.jsonl",
        b'{"body": "", "url": 1}\n' + JSONL,
        'no field "text", it has "body", "url"',
        "no text field",
        2,
    ),
    ("a.jsonl", b"[" * 200_000 + b"\n" + JSONL, "line 1: ", "not JSON", 2),
    ("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}\n" + JSONL, "line 1: not valid JSON", "not JSON", 2),
    (
        "a.jsonl.gz",
        gzip.compress(GOOD_LINES, mtime=0)[:-8],
        "garbled after 80 lines",
        "file truncated or garbled",
        80,
    ),
    (
        "a.jsonl.zst",
        ZSTD.compress(GOOD_LINES)[:-1],
        "truncated or garbled",
        "file truncated or garbled",
        None,
    ),
    (
        "a.parquet",
        b"PAR1 garbage PAR1",
        r"not a whole Parquet file \(17 bytes\)",
        "file truncated or garbled",
        0,
    ),
    ("a.parquet", b"", r"not a whole Parquet file \(0 bytes\)", "file truncated or garbled", 0),
]


@pytest.mark.parametrize(("name", "content", "message", "kind", "survivors"), BROKEN)
def test_broken_input_is_named_or_counted(
    tmp_path: Path, name: str, content: bytes, message: str, kind: str, survivors: int | None
) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(DamagedFile, match=message) as error:
        documents(path)
    assert name in str(error.value)
    skipped: list[tuple[Any, ...]] = []
    faults = Faults("skip", lambda *fault: skipped.append(fault))
    survived = documents(path, faults)
    assert survivors is None or len(survived) == survivors
    assert dict(faults.counts) == {kind: 1}
    assert len(skipped) == 1 and name in skipped[0][0]


def test_a_truncated_parquet_file_is_named(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": ["x" * 1000] * 50})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedFile, match=r"a\.parquet: not a whole Parquet file \(\d"):
        documents(path)


def test_a_garbled_row_group_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    table = pa.table({"text": [f"{i} " + "y" * 500 for i in range(6)]})
    pq.write_table(table, path, row_group_size=2, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    content[start : start + 12] = b"\xff" * 12
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFile, match="row group 2, after row 2"):
        documents(path)
    faults = Faults("skip")
    assert [d.meta["row"] for d in documents(path, faults)] == [1, 2, 5, 6]
    assert dict(faults.counts) == {"file truncated or garbled": 1}


def test_parquet_text_that_is_not_utf8_names_the_row(tmp_path: Path) -> None:
    raw = pa.array([b"fine", b"\xff\xfe", b"fine too"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw}), tmp_path / "a.parquet")
    with pytest.raises(DamagedFile, match=r"a\.parquet, row 2: holds text that is not valid UTF-8"):
        documents(tmp_path / "a.parquet")
    assert len(documents(tmp_path / "a.parquet", Faults("skip"))) == 2


def test_a_column_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"title": ["a"], "body": ["b"]})
    with pytest.raises(DamagedFile, match=r'row 1: no field "text", it has "title", "body"\. Set text_field'):
        documents(path)


def test_html_that_is_not_what_it_says(tmp_path: Path) -> None:
    path = put(tmp_path / "a.html", b"<meta charset=utf-8>\n<p>\xff</p>")
    with pytest.raises(DamagedFile, match=r"a\.html, line 2: not valid utf-8, which the page says it is"):
        documents(path)


def test_lines_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 100)
    path = put(tmp_path / "a.jsonl", JSONL + b'{"text": "' + b"x" * 200 + b'"}\n')
    with pytest.raises(DamagedFile, match="line 3: longer than 100 bytes"):
        documents(path)


def test_empty_files_hold_nothing_and_break_nothing(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", b"")
    put(tmp_path / "b.txt", b"")
    put(tmp_path / "c.jsonl.gz", b"")
    put(tmp_path / "d.html", b"")
    parquet(tmp_path / "e.parquet", {"text": pa.array([], pa.string())})
    assert [document.text for document in documents(tmp_path)] == ["", ""]


def test_folders_and_globs(tmp_path: Path) -> None:
    for name in ("b/2.txt", "a.md", "b/1.txt", ".hidden.txt", ".git/x.txt", "b/image.png"):
        put(tmp_path / name, b"x")

    def names(path: str) -> list[str]:
        return [Path(file.path).relative_to(tmp_path).as_posix() for file in find_files(Source(path=path))]

    assert names(str(tmp_path)) == ["a.md", "b/1.txt", "b/2.txt"]
    assert names(f"{tmp_path}/**/*.txt") == ["b/1.txt", "b/2.txt"]
    assert names(f"{tmp_path}/*") == ["a.md", "b/1.txt", "b/2.txt"]


def test_nothing_to_read_says_what_is_there(tmp_path: Path) -> None:
    put(tmp_path / "texts" / "image.png", b"x")
    put(tmp_path / "texts" / "table.xls", b"x")
    with pytest.raises(
        UserError, match=r"nothing to read, found 2 files with \.png, \.xls\. Readable are \.txt"
    ):
        documents(tmp_path / "texts")
    with pytest.raises(UserError, match=r"suffix '\.xls' is not known"):
        documents(tmp_path / "texts" / "table.xls")
    with pytest.raises(UserError, match=r"no such file or folder\. Did you mean 'texts'"):
        documents(tmp_path / "textes")
    put(tmp_path / "beside" / "tests" / "notes.txt", b"x")
    for unlike in ("my_texts", "tests/other.txt", "t"):  # not 'tests', and no name for its suffix alone
        with pytest.raises(UserError, match=r"no such file or folder\.$"):
            documents(tmp_path / "beside" / unlike)
    with pytest.raises(UserError, match=r"Did you mean 'notes\.txt'"):
        documents(tmp_path / "beside" / "tests" / "note.md")
    with pytest.raises(UserError, match="nothing to read, found no files"):
        documents(tmp_path / "*.txt")


def test_file_names_that_are_not_utf8_can_be_written_down(tmp_path: Path) -> None:
    name = b"caf\xe9.txt".decode("utf-8", "surrogateescape")
    try:
        put(tmp_path / name, b"x")
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system takes only UTF-8 names")
    (document,) = documents(tmp_path)
    assert document.meta["file"] == r"caf\udce9.txt"


def test_real_files(shared_data: Path) -> None:
    (shakespeare,) = documents(shared_data / "tinyshakespeare" / "input.txt.gz")
    assert len(shakespeare.text) == 1_115_394 and shakespeare.text.startswith("First Citizen:\n")
    novels = read(Source(path=str(shared_data / "litbank_novels" / "*.parquet")), Faults())
    first = next(novels)
    assert len(first.text) > 10_000 and first.meta["row"] == 1 and first.meta["title"]
    pages = read(
        Source(path=str(shared_data / "sqlite_docs_html" / "pages.jsonl.gz"), text_field="html", html=True),
        Faults("fail"),
    )
    for _, page in zip(range(20), pages, strict=False):
        assert len(page.text) > 100 and "<div" not in page.text and "getElementById" not in page.text
        assert str(page.meta["url"]).startswith("https://www.sqlite.org/")


def test_a_field_whose_name_is_no_text_is_left_out(tmp_path: Path) -> None:
    row = json.dumps({"text": "hello there", "x\ud800": 1, "b": 2})
    (document,) = documents(put(tmp_path / "a.jsonl", row.encode()))
    assert document.meta["b"] == 2
    assert not any(name.startswith("x") for name in document.meta)

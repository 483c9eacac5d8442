"""CSV, Arrow, PDF, lines and wide text: whole files, broken ones, and addresses of fsspec."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from pyarrow import feather

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.schema import Document
from modelwright.data.readers import documents as document_reader
from modelwright.data.readers import streams
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import find_files
from modelwright.data.readers.read import read, read_part
from modelwright.data.readers.source import Source
from modelwright.data.readers.units import parts


def documents(path: Path | str, faults: Faults | None = None, **settings: Any) -> list[Document]:
    return list(read(Source(path=str(path), **settings), faults or Faults()))


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


TABLE = b'text,year,"a, b"\r\none,1,x\r\n"two\nlines, ""quoted""",2,y\r\n\r\nthree,3,z'


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.tsv"])
def test_csv_and_tsv(tmp_path: Path, name: str) -> None:
    content = TABLE.replace(b",", b"\t") if name.endswith("tsv") else TABLE
    put(tmp_path / name, gzip.compress(content) if name.endswith("gz") else b"\xef\xbb\xbf" + content)
    read_back = documents(tmp_path / name)
    separator = "\t" if name.endswith("tsv") else ","
    assert [d.text for d in read_back] == ["one", f'two\nlines{separator} "quoted"', "three"]
    assert [d.meta["line"] for d in read_back] == [2, 4, 6] and read_back[2].meta["year"] == "3"


def test_csv_rows_that_are_wrong_cost_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelwright.data.readers import csv as tables

    monkeypatch.setattr(tables, "MAX_TEXT_BYTES", 200)
    wrong = b"text,n\na,1\nb\nc,2,3\n\xff,4\n" + b"x" * 300 + b',5\nd,6\n"never closed,7\n'
    path = put(tmp_path / "a.csv", wrong)
    with pytest.raises(DamagedFile, match=r"a\.csv, line 3: 1 fields, expected 2 as in the first row"):
        documents(path)
    faults = Faults("skip")
    assert [d.text for d in documents(path, faults)] == ["a", "d"]
    assert faults.counts == {"ragged row": 3, "not UTF-8": 1, "not CSV": 1}


def arrow(path: Path, batches: int, rows: int, kind: str) -> Path:
    schema = pa.schema([("text", pa.string()), ("raw", pa.binary())])
    open_writer = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with open_writer(str(path), schema) as writer:
        for batch in range(batches):
            texts = [f"{batch}.{row} ü" for row in range(rows)]
            writer.write_batch(pa.record_batch([texts, [b"\xff"] * rows], schema=schema))
    return path


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_and_streams(tmp_path: Path, kind: str) -> None:
    path = arrow(tmp_path / "a.arrow", 4, 3, kind)
    whole = documents(path)
    assert [(d.text, d.meta["row"]) for d in whole][4:6] == [("1.1 ü", 5), ("1.2 ü", 6)] and len(whole) == 12
    source = Source(path=str(path))
    cut = parts(find_files(source)[0], 500)
    assert len(cut) == (4 if kind == "file" else 1)
    assert [d for part in cut for d in read_part(part, source, Faults())] == whole


def test_feather_and_what_is_no_arrow(tmp_path: Path) -> None:
    feather.write_feather(pa.table({"text": ["one", "two"]}), str(tmp_path / "a.feather"))
    assert [d.text for d in documents(tmp_path / "a.feather")] == ["one", "two"]
    cut = (tmp_path / "a.feather").read_bytes()[:-20]
    with pytest.raises(DamagedFile, match="not a whole Arrow file"):
        documents(put(tmp_path / "b.feather", cut))
    with pytest.raises(DamagedFile, match=r"not a whole Arrow file \(7 bytes\)"):
        documents(put(tmp_path / "c.arrow", b"rubbish"))


def a_pdf(text: str) -> bytes:
    stream = f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode()
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    out, places = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(out))
        out += b"%d 0 obj%s endobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    end = b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF"
    return out + end % (table, len(out))


def test_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    put(tmp_path / "a.pdf", a_pdf("Hello from a page"))
    assert [d.text for d in documents(tmp_path)] == ["Hello from a page"]
    with pytest.raises(DamagedFile, match=r"b\.pdf: not a whole PDF file"):
        documents(put(tmp_path / "b.pdf", b"no PDF at all"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_wide_text_with_a_mark_is_read_in_every_format(tmp_path: Path, encoding: str) -> None:
    put(tmp_path / "a.txt", "zwei ü\r\n😀".encode(encoding))
    put(tmp_path / "b.csv", "text\nzwei ü\n".encode(encoding))
    put(tmp_path / "c.jsonl.gz", gzip.compress('{"text": "zwei ü"}'.encode(encoding)))
    assert [d.text for d in documents(tmp_path)] == ["zwei ü\n😀", "zwei ü", "zwei ü"]
    put(tmp_path / "a.txt", "x".encode(encoding)[:-1])
    with pytest.raises(DamagedFile, match=r"a\.txt: truncated or garbled"):
        documents(tmp_path)


def test_nul_bytes_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(DamagedFile, match=r"a\.txt, line 2: a NUL byte at 5: not text"):
        documents(put(tmp_path / "a.txt", b"ab\ncd\0"))
    assert documents(put(tmp_path / "b.jsonl", b'{"text": "a\\u0000"}'))[0].text == "a\0"


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_bombs_are_named(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "HARMLESS_BYTES", 1 << 20)
    pack = gzip.compress if suffix == "gz" else zstandard.ZstdCompressor().compress
    bomb = put(tmp_path / f"a.jsonl.{suffix}", pack(b'{"text": "ok"}\n' + b" " * (1 << 24)))
    with pytest.raises(DamagedFile, match="swells to over 250 times its size: a decompression bomb"):
        documents(bomb)
    faults = Faults("skip")
    documents(bomb, faults)
    assert faults.counts == {"decompression bomb": 1}


def test_reading_goes_on_behind_a_line_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_LINE_BYTES", 100)
    put(tmp_path / "a.jsonl", b'{"text": "one"}\n' + b"x" * 3_000_000 + b'\n{"text": "two"}\n')
    faults = Faults("skip")
    assert [(d.text, d.meta["line"]) for d in documents(tmp_path, faults)] == [("one", 1), ("two", 3)]
    assert faults.counts == {"line too long": 1}


def test_texts_beyond_all_measure_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document_reader, "MAX_TEXT_BYTES", 10)
    put(tmp_path / "a.jsonl", b'{"text": "12345678901"}\n{"text": "1234567890"}\n')
    faults = Faults("skip")
    assert len(documents(tmp_path, faults)) == 1 and faults.counts == {"text too long": 1}


def test_a_file_that_changes_while_it_is_read_is_a_fault(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"text": "one"}\n' * 3)
    faults = Faults("skip")
    stream = read(Source(path=str(path)), faults)
    next(stream)
    os.truncate(path, 16)
    list(stream)
    assert faults.counts == {"file changed": 1}
    stream = read(Source(path=str(path)), Faults())
    next(stream)
    path.unlink()
    with pytest.raises(DamagedFile, match=r"changed while it was read .*, gone"):
        list(stream)


def test_links_are_followed_and_no_file_is_read_twice(tmp_path: Path) -> None:
    put(tmp_path / "in" / "b" / "one.txt", b"one")
    put(tmp_path / "out" / "two.txt", b"two")
    (tmp_path / "in" / "a_link").symlink_to(tmp_path / "in" / "b")
    (tmp_path / "in" / "b" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b" / "loop2").symlink_to(tmp_path / "in" / "b")
    (tmp_path / "in" / "outside").symlink_to(tmp_path / "out")
    (tmp_path / "in" / "again.txt").symlink_to(tmp_path / "in" / "b" / "one.txt")
    (tmp_path / "in" / "nothing.txt").symlink_to(tmp_path / "nowhere")
    names = [file.name for file in find_files(Source(path=str(tmp_path / "in")))]
    assert names == ["b/one.txt", "outside/two.txt"]
    names = [file.name for file in find_files(Source(path=str(tmp_path / "in" / "**" / "*.txt")))]
    assert names == ["again.txt"]
    faults = Faults()
    find_files(Source(path=str(tmp_path / "in")), faults)
    assert faults.passed_over == {"symbolic link to what is read already": 4, "symbolic link to nothing": 1}


@pytest.mark.parametrize("scheme", ["memory", "file"])
def test_addresses_of_fsspec(tmp_path: Path, scheme: str) -> None:
    fsspec = pytest.importorskip("fsspec")
    base = f"memory://{tmp_path}" if scheme == "memory" else f"file://{tmp_path}"
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(50))
    contents = {
        "a.jsonl": lines,
        "sub/b.txt.gz": gzip.compress(b"text"),
        ".hidden.txt": b"x",
        "c.bin": b"x",
    }
    for name, content in contents.items():
        with fsspec.open(f"{base}/{name}", "wb", auto_mkdir=True) as file:
            file.write(content)
    source = Source(path=base, name="remote")
    whole = documents(base, name="remote")
    assert [d.text for d in whole] == [str(number) for number in range(50)] + ["text"]
    assert (whole[-1].source, dict(whole[-1].meta)) == ("remote", {"file": "sub/b.txt.gz"})
    cut = [part for file in find_files(source) for part in parts(file, 100)]
    assert len(cut) > 5 and [d for part in cut for d in read_part(part, source, Faults())] == whole
    assert [d.text for d in documents(f"{base}/sub/*.gz")] == ["text"]
    with pytest.raises(UserError, match=r"source '.*/none\.txt': no such file or folder"):
        documents(f"{base}/none.txt")


def test_an_unknown_address_says_so() -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(UserError, match="nowhere://a/b: cannot be opened"):
        documents("nowhere://a/b")


def test_retention_is_a_day() -> None:
    assert Source(path="a", retention="2030-01-31").retention == "2030-01-31"
    with pytest.raises(ValueError, match="expected unknown, indefinite or a day"):
        Source(path="a", retention="soon")


def test_format_overrides_the_suffix(tmp_path: Path) -> None:
    put(tmp_path / "notes.log", b"one\n\ntwo\r\n\xff\n")
    faults = Faults("skip")
    read_back = documents(tmp_path, faults, format="lines")
    assert [(d.text, d.meta["line"]) for d in read_back] == [("one", 1), ("two", 3)]
    assert faults.counts == {"not UTF-8": 1}

"""WARC: pages with their address, and what a broken record costs: itself."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.errors import DamagedFile
from modelwright.base.schema import Document
from modelwright.data.readers import warc
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.read import read
from modelwright.data.readers.source import Source

pytest.importorskip("fastwarc")


def record(
    body: bytes, url: str, kind: str = "text/html", length: int | str | None = None, **headers: str
) -> bytes:
    of_http = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    status = headers.pop("status", "200 OK")
    block = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{of_http}\r\n".encode() + body
    about = (
        "WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:1>\r\n"
        f"WARC-Target-URI: {url}\r\nWARC-Date: 2026-01-02T03:04:05Z\r\n"
        f"Content-Type: application/http; msgtype=response\r\n"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return about.encode() + block + b"\r\n\r\n"


INFO = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 4\r\n\r\nabcd\r\n\r\n"
ONE, THREE = record(b"<p>one", "http://a/1"), record(b"<p>three", "http://a/3")


def documents(path: Path, faults: Faults | None = None, **settings: Any) -> list[Document]:
    return list(read(Source(path=str(path), **settings), faults or Faults()))


def put(path: Path, *records: bytes) -> Path:
    packed = path.suffix == ".gz"
    path.write_bytes(b"".join(gzip.compress(each, mtime=0) if packed else each for each in records))
    return path


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_responses_with_text_are_read(tmp_path: Path, name: str) -> None:
    latin = record("<p>Grüße".encode("latin-1"), "http://a/2", "text/html; charset=ISO-8859-1")
    note = record(b"a\r\nnote", "http://a/4", "text/plain")
    packed = record(gzip.compress(b"<p>packed"), "http://a/5", Content_Encoding="gzip")
    chunks = record(b"3\r\n<p>\r\n2\r\nhi\r\n0\r\n\r\n", "http://a/6", Transfer_Encoding="chunked")
    image = record(b"\x89PNG", "http://a/7", "image/png")
    missing = record(b"<p>gone", "http://a/8", status="404 Not Found")
    path = put(tmp_path / name, INFO, ONE, latin, note, packed, chunks, image, missing)
    faults = Faults()
    found = documents(path, faults)
    assert [d.text for d in found] == ["one", "Grüße", "a\nnote", "packed", "hi"]
    assert [d.meta["url"] for d in found] == [f"http://a/{number}" for number in (1, 2, 4, 5, 6)]
    assert found[0].meta["date"] == "2026-01-02T03:04:05Z" and faults.passed_over == {"no page": 2}
    assert found[0].meta["record"] == (len(INFO) if name == "a.warc" else len(gzip.compress(INFO, mtime=0)))


WRONG = {
    "too short": record(b"<p>two", "http://a/2", length=20),
    "too long": record(b"<p>two", "http://a/2", length=90),
    "beyond the end": record(b"<p>two", "http://a/2", length=1 << 25),
    "no number": record(b"<p>two", "http://a/2", length="abc"),
    "negative": record(b"<p>two", "http://a/2", length=-3),
    "rubbish": b"rubbish, rubbish\r\nmore of it\r\n\r\n",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_record_with_a_wrong_length_costs_itself(tmp_path: Path, wrong: str) -> None:
    path = put(tmp_path / "a.warc", ONE, WRONG[wrong], THREE)
    with pytest.raises(DamagedFile, match=r"a\.warc, .*record at byte \d+"):
        documents(path)
    faults = Faults("skip")
    assert [d.text for d in documents(path, faults)] == ["one", "three"]
    assert faults.counts == {"record broken": 1}


def test_a_garbled_member_costs_itself(tmp_path: Path) -> None:
    garbled = bytearray(gzip.compress(record(b"<p>two" * 50, "http://a/2")))
    garbled[60:70] = b"\xff" * 10
    whole = put(tmp_path / "a.warc.gz", ONE, THREE).read_bytes()
    one = gzip.compress(ONE, mtime=0)
    (tmp_path / "a.warc.gz").write_bytes(one + bytes(garbled) + gzip.compress(THREE))
    faults = Faults("skip")
    assert [d.text for d in documents(tmp_path / "a.warc.gz", faults)] == ["one", "three"]
    assert faults.counts == {"record broken": 1}
    (tmp_path / "a.warc.gz").write_bytes(whole[:-30])
    faults = Faults("skip")
    assert [d.text for d in documents(tmp_path / "a.warc.gz", faults)] == ["one"]
    assert faults.counts == {"record broken": 1}


def test_records_beyond_all_measure_are_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warc, "MAX_RECORD_BYTES", 3000)
    bomb = record(gzip.compress(b"x" * 100_000), "http://a/2", Content_Encoding="gzip")
    path = put(tmp_path / "a.warc", record(b"x" * 4000, "http://a/0"), bomb, THREE)
    faults = Faults("skip")
    assert [d.text for d in documents(path, faults)] == ["three"]
    assert faults.counts == {"record too large": 1, "decompression bomb": 1}


def test_no_warc_at_all(tmp_path: Path) -> None:
    (tmp_path / "a.warc").write_bytes(b"")
    assert documents(tmp_path / "a.warc") == []
    (tmp_path / "a.warc").write_bytes(b"no warc at all")
    with pytest.raises(DamagedFile, match=r"record at byte 0: a wrong length, or garbled"):
        documents(tmp_path / "a.warc")

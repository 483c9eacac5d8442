"""Any bytes under any suffix give documents or a named fault: never another exception, never a hang."""

from __future__ import annotations

import functools
import gzip
import io
import json
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.errors import DamagedFile
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.read import read
from modelwright.data.readers.source import FORMATS, Source

pytest.importorskip("resiliparse")
pytest.importorskip("fastwarc")

ROWS = [{"text": f"Row {number}: ü 😀 " + "text " * number, "n": number} for number in range(12)]
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>A page of text."
RECORD = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
RECORD += b"Content-Length: %d\r\n\r\n%s\r\n\r\n" % (len(PAGE), PAGE)
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def _arrow(stream: bool) -> bytes:
    table, sink = pa.Table.from_pylist(ROWS), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=4)
    return sink.getvalue()


@functools.cache
def valid() -> dict[str, bytes]:
    """A whole file of each kind, by its name."""
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), parquet, row_group_size=4)
    pack = zstandard.ZstdCompressor(write_checksum=True).compress
    return {
        "a.txt": LINES, "b.txt": LINES.decode().encode("utf-16"), "a.jsonl": LINES,
        "a.jsonl.gz": gzip.compress(LINES, mtime=0), "a.jsonl.zst": pack(LINES),
        "a.csv": b'text,n\n"one, ""two""\nthree",1\nfour,2\n', "a.html": b"<html><p>Hi <b>there</b></html>",
        "a.warc": RECORD * 3, "a.warc.gz": gzip.compress(RECORD, mtime=0) * 3,
        "a.parquet": parquet.getvalue(), "a.arrow": _arrow(False), "b.arrow": _arrow(True),
    }  # fmt: skip


def survives(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        source = Source(path=str(path))
        faults = Faults("skip")
        found = list(read(source, faults))
        assert all(isinstance(document.text, str) for document in found)
        try:
            assert list(read(source, Faults("fail"))) == found and not faults.counts
        except DamagedFile as error:
            assert faults.counts and name in str(error)


QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SUFFIXES = sorted({f"a{suffix}" for suffix in FORMATS if suffix != ".pdf"} | set(valid()))


@pytest.mark.parametrize("name", sorted(valid()))
def test_whole_files_have_no_faults(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(valid()[name])
    assert list(read(Source(path=str(tmp_path)), Faults("fail")))


@given(st.sampled_from(SUFFIXES), st.binary(max_size=300))
@QUICK
def test_any_bytes(name: str, content: bytes) -> None:
    survives(name, content)


@given(st.data())
@QUICK
def test_truncations(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(valid())))
    content = valid()[name]
    survives(name, content[: data.draw(st.integers(0, len(content)))])


@given(st.data())
@settings(QUICK, max_examples=400)
def test_flipped_bits(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(valid())))
    content = bytearray(valid()[name])
    for place in data.draw(st.lists(st.integers(0, len(content) * 8 - 1), min_size=1, max_size=3)):
        content[place // 8] ^= 1 << place % 8
    survives(name, bytes(content))


@given(st.binary(max_size=200), st.integers(0, 500), st.integers(0, 7))
@settings(QUICK, max_examples=15)
def test_pdf(tail: bytes, cut: int, bit: int) -> None:
    pytest.importorskip("pypdf")
    survives("a.pdf", b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n" + tail)

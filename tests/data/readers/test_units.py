"""Parts in order give what the file gives, however small they are, and units are the same every time."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.schema import Document
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File, find_files
from modelwright.data.readers.read import read, read_part
from modelwright.data.readers.source import Source
from modelwright.data.readers.units import Unit, parts, units

LINE = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40).map(lambda t: json.dumps({"text": t})),
    st.sampled_from(["", "  ", "not JSON", "[1]", '{"body": 1}', '{"text": "\\ud800"}']),
)


def one(path: Path) -> File:
    (file,) = find_files(Source(path=str(path)))
    return file


def in_parts(source: Source, unit_bytes: int, faults: Faults) -> list[Document]:
    return [
        document
        for file in find_files(source)
        for part in parts(file, unit_bytes)
        for document in read_part(part, source, faults)
    ]


@given(st.lists(LINE, max_size=20), st.booleans(), st.sampled_from(["\n", "\r\n"]), st.integers(1, 200))
@settings(max_examples=120, deadline=None)
def test_parts_of_lines_give_the_whole(lines: list[str], ends: bool, end: str, unit_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes((end.join(lines) + end * ends).encode())
        for source in (Source(path=str(path)), Source(path=str(path), format="lines")):
            part_faults: list[object] = []
            whole_faults: list[object] = []
            again = Faults("skip", lambda *fault, to=part_faults: to.append(fault))
            whole = list(read(source, Faults("skip", lambda *fault, to=whole_faults: to.append(fault))))
            assert in_parts(source, unit_bytes, again) == whole
            assert part_faults == whole_faults
            cut = parts(find_files(source)[0], unit_bytes)
            assert all(part.num_bytes <= unit_bytes + max(map(len, lines), default=0) * 4 + 2 for part in cut)
            assert sum(part.num_bytes for part in cut) == path.stat().st_size


@given(st.lists(st.integers(1, 5), max_size=8), st.integers(1, 3000))
@settings(max_examples=40, deadline=None)
def test_parts_of_row_groups_give_the_whole(groups: list[int], unit_bytes: int) -> None:
    schema = pa.schema([("text", pa.string())])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.parquet"
        with pq.ParquetWriter(path, schema) as writer:
            for number, rows in enumerate(groups):
                texts = [f"{number}.{row} " + "x" * 90 * row for row in range(rows)]
                writer.write_table(pa.table({"text": texts}), row_group_size=10)
        source = Source(path=str(path))
        whole = list(read(source, Faults()))
        assert in_parts(source, unit_bytes, Faults()) == whole
        assert [document.meta["row"] for document in whole] == list(range(1, sum(groups) + 1))


def test_a_large_file_is_cut_and_small_ones_are_gathered(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.txt").write_text("x" * 100)
    (tmp_path / "a.jsonl").write_text('{"text": "0123456789"}\n' * 100)
    source = Source(path=str(tmp_path))
    made = list(units([source, Source(path="atlas")], 500, Faults()))
    assert [len(unit.parts) for unit in made[:2]] == [5, 5] and made[-1].parts == () and made[-1].source == 1
    assert all(unit.num_bytes <= 523 for unit in made)
    assert [Unit.from_json(json.loads(json.dumps(unit.as_json()))) for unit in made] == made
    documents = [d for unit in made for part in unit.parts for d in read_part(part, source, Faults())]
    assert documents == list(read(source, Faults()))


def test_the_id_of_a_unit_follows_content_and_settings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("two")

    def ids(**settings: str) -> list[str]:
        return [unit.id for unit in units([Source(path=str(tmp_path), **settings)], 1, Faults())]

    before = ids()
    assert ids() == before and len(set(before)) == 2
    assert set(ids(licence="MIT")).isdisjoint(before)
    os.utime(tmp_path / "b.txt", ns=(1, 1))
    assert [now == then for now, then in zip(ids(), before, strict=True)] == [True, False]


def test_compressed_and_wide_files_stay_whole(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(('{"text": "ü"}\n' * 50).encode("utf-16"))
    assert len(parts(one(tmp_path / "a.jsonl"), 10)) == 1
    assert [d.text for d in read(Source(path=str(tmp_path)), Faults())] == ["ü"] * 50
    (tmp_path / "a.parquet").write_bytes(b"PAR1 rubbish PAR1")
    assert len(parts(one(tmp_path / "a.parquet"), 10)) == 1

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from modelwright.base.errors import DamagedFile, UserError
from modelwright.data.decontaminate.items import EvalItem, item_of, read_items


@pytest.mark.parametrize(
    ("row", "question", "answer", "passage"),
    [
        ({"question": "2+2?", "answer": "It is <<2+2=4>>4.\n#### 4"}, "2+2?", "It is 4.\n#### 4", ""),
        ({"question": "Q?", "choices": ["a", "b"], "answer": 1}, "Q?", "b", "a\nb"),
        ({"question": "Q?", "choices": {"text": ["x", "y"]}, "answerKey": "B"}, "Q?", "y", "x\ny"),
        ({"query": "Question: Why?\nAnswer:", "choices": ["Yes", "No"], "gold": 0}, "Why?", "Yes", "Yes\nNo"),
        ({"context": "Oslo is in", "continuation": "Norway"}, "Oslo is in", "Norway", ""),
        ({"context_options": ["a cat", "a dog"], "continuation": "barks", "gold": 1}, "a dog", "barks", ""),
        ({"Question": "Eh?", "Best Answer": "So", "Incorrect Answers": "No"}, "Eh?", "So", ""),
        ({"prompt": "def f():", "canonical_solution": "pass", "test": "f()"}, "def f():", "pass", ""),
        ({"text": "Write it.", "code": "x = 1"}, "Write it.", "x = 1", ""),
        ({"question": "Who?", "context": "Ann came.", "answer": "Ann"}, "Who?", "Ann", "Ann came."),
        ({"question": "Q?", "choices": ["a"], "answer": 7}, "Q?", "", "a"),
    ],
)  # fmt: skip
def test_the_layouts_in_which_sets_are_published(row, question: str, answer: str, passage: str) -> None:
    assert item_of(row, "s", "f:1") == EvalItem("s", "f:1", question, answer, passage)


def test_every_kind_of_file(tmp_path: Path) -> None:
    rows = [{"question": "One?", "answer": "1", "id": "a"}, {"question": "Two?", "answer": "2", "id": "b"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "set.jsonl").write_bytes(lines)
    (tmp_path / "set.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "set.jsonl.zst").write_bytes(zstandard.compress(lines))
    (tmp_path / "set.csv").write_text("id,question,answer\na,One?,1\nb,Two?,2\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "set.parquet")
    expected = [EvalItem("s", "set:a", "One?", "1"), EvalItem("s", "set:b", "Two?", "2")]
    for file in sorted(tmp_path.iterdir()):
        assert list(read_items(file, "s")) == expected, file
    assert len(list(read_items(tmp_path))) == 10
    assert {item.suite for item in read_items(tmp_path)} == {tmp_path.name}


@pytest.mark.parametrize(
    ("name", "content", "kind", "says"),
    [
        ("a.jsonl", b'{"nothing": 1}\n', UserError, "no question among the fields nothing"),
        ("a.jsonl", b"{broken\n", DamagedFile, "line 1: not valid JSON"),
        ("a.jsonl", b"[1]\n", DamagedFile, "expected an object"),
        ("a.jsonl.gz", b"\x1f\x8b\x08\x00garbage", DamagedFile, "cannot be read"),
        ("a.parquet", b"PAR1 no", DamagedFile, "cannot be read"),
        ("a.csv", b"question\n\xff\xfe\n", DamagedFile, "cannot be read"),
        ("a.xml", b"<a/>", UserError, "suffix"),
    ],
)
def test_what_cannot_be_read_is_never_passed_over(tmp_path: Path, name, content, kind, says) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(kind, match=says):
        list(read_items(tmp_path / name))


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        list(read_items(tmp_path / "absent.jsonl"))
    with pytest.raises(UserError, match="no file with"):
        list(read_items(tmp_path))


def test_real_sets(shared_data: Path) -> None:
    counts = {"gsm8k": 8792, "mmlu": 15858, "humaneval": 164, "mbpp": 1401, "truthfulqa": 817, "xstest": 450}
    for suite, count in {**counts, "ifeval": 541}.items():
        items = list(read_items(shared_data / suite))
        assert len(items) == count and all(item.question and item.suite == suite for item in items)
        assert len({item.id for item in items}) >= 0.99 * count, suite

"""For any text: what is cut joins again, and what is written is read."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document
from modelwright.data.corpus import read_corpus, write_corpus
from modelwright.data.cut import cut
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.read import read
from modelwright.data.readers.source import Source

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)


@given(st.text(alphabet="ab. \n", max_size=200), st.integers(1, 30))
def test_pieces_join_to_the_text(text: str, size: int) -> None:
    pieces = list(cut(text, size))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= size for piece in pieces[:-1]) and len(pieces[-1]) <= size


@given(st.lists(TEXT, max_size=5))
@settings(max_examples=25, deadline=None)
def test_json_lines_and_corpora_give_back_any_text(texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        documents = list(read(Source(path=str(path)), Faults()))
        assert [document.text for document in documents] == texts
        assert [document.id for document in documents] == [sha256_text(text) for text in texts]
        with write_corpus(Path(folder) / "c") as writer:
            for document in documents:
                writer.add(document)
        back: list[Document] = list(read_corpus(Path(folder) / "c"))
        assert back == documents

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data import filters
from modelwright.data.corpus import read_corpus, write_corpus
from modelwright.data.cut import CutLong, cut
from modelwright.data.pipeline.sides import fill_the_empty_side
from modelwright.data.split import position, side_of
from modelwright.data.steps import chain, drop_empty


def document(text: str, source: str = "a.txt") -> Document:
    return Document(text=text, id=sha256_text(text), source=source)


def no_drop(document: Document, reason: Reason) -> None:
    raise AssertionError(f"dropped {document.text}: {reason}")


def test_pieces_join_to_the_whole_and_know_it() -> None:
    text = "\n\n".join(f"Paragraph {i}. It has two sentences." for i in range(40)) + "x" * 300
    whole = document(text)
    pieces = list(CutLong(100)(iter([whole, document("short")]), no_drop))
    assert "".join(p.text for p in pieces[:-1]) == text
    assert all(len(p.text) <= 100 and p.id == sha256_text(p.text) for p in pieces)
    assert [p.meta["piece"] for p in pieces[:-1]] == list(range(1, len(pieces)))
    assert {p.meta["whole"] for p in pieces[:-1]} == {whole.id}
    assert dict(pieces[-1].meta) == {}
    assert pieces[0].text.endswith(".\n\n")


def test_a_cut_falls_on_the_best_break() -> None:
    assert list(cut("aaa bbb. ccc ddd", 10)) == ["aaa bbb. ", "ccc ddd"]
    assert list(cut("aaaa bb\ncc. dd", 10)) == ["aaaa bb\n", "cc. dd"]
    assert list(cut("a" * 25, 10)) == ["a" * 10, "a" * 10, "a" * 5]
    assert list(cut("", 10)) == [""]


def test_flows_add_up() -> None:
    went: list[tuple[str, str]] = []
    texts = ["abc", "", "é", "abc", "long enough"]
    steps = [
        ("empty", drop_empty),
        filters.build({"name": "length", "min_characters": 2}),
    ]
    stream, flows = chain(map(document, texts), steps, lambda step, d, why: went.append((step, why.rule)))
    assert [d.text for d in stream] == ["abc", "abc", "long enough"]
    assert [(f.step, f.documents, f.bytes, f.dropped) for f in flows] == [
        ("read", 5, 19, 0),
        ("empty", 4, 19, 1),
        ("length", 3, 17, 1),
    ]
    assert went == [("empty", "empty"), ("length", "too short")]


def test_filters_are_found_by_their_file_name() -> None:
    assert "length" in filters.names()
    with pytest.raises(ConfigError, match=r"no filter 'lenght'\. Did you mean 'length'"):
        filters.build({"name": "lenght"})
    with pytest.raises(ConfigError, match=r"min_chars: unknown setting\. Did you mean 'min_characters'"):
        filters.build({"name": "length", "min_chars": 3})
    with pytest.raises(ConfigError, match="without a name"):
        filters.build({"min_characters": 3})


def test_a_stranger_adds_a_filter_by_adding_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exclaiming.py").write_text(
        "from modelwright.base import config\n"
        "from modelwright.base.schema import Reason\n"
        "class Config(config.Config):\n"
        "    mark: str = '!'\n"
        "def step(config):\n"
        "    def keep(documents, drop):\n"
        "        for document in documents:\n"
        "            if document.text.endswith(config.mark):\n"
        "                drop(document, Reason('exclaiming', says='it ends in a mark'))\n"
        "            else:\n"
        "                yield document\n"
        "    return keep\n"
    )
    monkeypatch.setattr(filters, "__path__", [*filters.__path__, str(tmp_path)])
    name, step = filters.build({"name": "exclaiming"})
    del sys.modules[f"{filters.__name__}.exclaiming"]  # other tests add files of their own
    dropped: list[str] = []

    def drop(document: Document, reason: Reason) -> None:
        dropped.append(str(reason))

    assert [d.text for d in step(iter([document("Hey!"), document("hey")]), drop)] == ["hey"]
    assert (name, dropped) == ("exclaiming", ["exclaiming: it ends in a mark"])


def test_length_bounds_are_inclusive() -> None:
    _, step = filters.build({"name": "length", "min_characters": 2, "max_characters": 3})
    reasons: list[str] = []
    kept = step(map(document, ["a", "ab", "abc", "abcd"]), lambda d, why: reasons.append(str(why)))
    assert [d.text for d in kept] == ["ab", "abc"]
    assert [reason.split(":")[0] for reason in reasons] == ["too short", "too long"]


def test_a_filter_may_look_at_some_documents_only() -> None:
    short = {"name": "length", "min_characters": 5}
    stream = [
        replace(document("one", "web-1"), meta={"language": "en"}),
        replace(document("two", "books"), meta={"language": "en"}),
        replace(document("drei", "web-1"), meta={"language": "de"}),
        document("long enough", "web-2"),
        document("four", "web-2"),
    ]

    def kept(only: dict[str, Any]) -> list[str]:
        _, step = filters.build({**short, "only": only})
        return [d.text for d in step(iter(stream), lambda *_: None)]

    assert kept({"sources": ["web-*"]}) == ["two", "long enough"]
    assert kept({"languages": ["en"]}) == ["drei", "long enough", "four"]
    assert kept({"sources": ["web-*"], "languages": ["de"]}) == ["one", "two", "long enough", "four"]
    with pytest.raises(ConfigError, match=r"'only' of filter 'length'[\s\S]*source: unknown setting"):
        filters.build({**short, "only": {"source": ["a"]}})


Sides = Callable[[list[Document], float], dict[str, str]]


@pytest.fixture
def sides(tmp_path: Path) -> Sides:
    """text -> side, as a corpus is split that is written document by document."""

    def split(documents: list[Document], fraction: float) -> dict[str, str]:
        folders = {side: tmp_path / side for side in ("train", "validation")}
        with write_corpus(folders["train"]) as train, write_corpus(folders["validation"]) as validation:
            for each in documents:
                key = str(each.meta.get("whole", each.id))
                (train if side_of(key, fraction) == "train" else validation).add(each)
        fill_the_empty_side(folders["train"], folders["validation"], fraction)
        return {each.text: side for side, folder in folders.items() for each in read_corpus(folder)}

    return split


def test_the_split_depends_on_each_document_alone() -> None:
    ids = [sha256_text(f"text {i}") for i in range(5000)]
    assert 400 < sum(side_of(identity, 0.1) == "validation" for identity in ids) < 600
    assert all(side_of(each, 0.2) == "validation" for each in ids if side_of(each, 0.1) == "validation")


def test_a_tiny_corpus_still_gets_both_sides(sides: Sides) -> None:
    two = [document("one"), document("two")]
    for order in (two, two[::-1]):
        assert sorted(sides(order, 0.001).values()) == ["train", "validation"]
    assert sides(two, 0.001) == sides(two[::-1], 0.001)
    nearest = min(two, key=lambda d: position(d.id, "split"))
    assert sides(two, 0.001)[nearest.text] == "validation"
    assert sorted(sides(two, 0.9999999).values()) == ["train", "validation"]
    assert sides(two, 0.0) == {"one": "train", "two": "train"}
    for fraction in (0.0001, 0.9999999):
        assert sides(two[:1], fraction) == {"one": "train"}
    assert sides([], 0.1) == {}


def pieces(books: int) -> list[Document]:
    """Twenty pieces of each of so many books."""
    return [
        replace(document(f"book {book}, page {page}"), meta={"whole": sha256_text(f"book {book}")})
        for book in range(books)
        for page in range(20)
    ]


def test_pieces_of_a_document_stay_together(sides: Sides) -> None:
    split = sides(pieces(60), 0.2)
    books = {book: {side for text, side in split.items() if text.startswith(book + ",")}
             for book in (f"book {number}" for number in range(60))}  # fmt: skip
    assert all(len(found) == 1 for found in books.values())
    assert 0 < sum(found == {"validation"} for found in books.values()) < 30


def test_pieces_part_where_a_side_would_be_empty(sides: Sides) -> None:
    whole = next(n for n in range(99) if side_of(sha256_text(f"book {n}"), 0.2) == "train")
    book = [each for each in pieces(99) if each.text.startswith(f"book {whole},")]
    assert sides(book, 0.2) == {each.text: side_of(each.id, 0.2) for each in book}
    assert set(sides(book, 0.2).values()) == {"train", "validation"}


def full(number: int) -> Document:
    flag = (True, False, None)[number % 3]
    return Document(
        text=f"Text {number} ü\n" * (number + 1),
        id=sha256_text(f"{number}"),
        source=f"source {number % 4}",
        licence="CC0-1.0",
        jurisdiction="DE",
        personal_data=flag,
        meta={"line": number, "title": "é"},
    )


def test_a_corpus_comes_back_as_it_went_in(tmp_path: Path) -> None:
    documents = [full(number) for number in range(50)]
    with write_corpus(tmp_path / "c") as writer:
        for each in documents:
            writer.add(each)
    assert list(read_corpus(tmp_path / "c")) == documents
    assert (writer.num_documents, writer.num_bytes) == (50, sum(len(d.text.encode()) for d in documents))


def test_a_corpus_of_nothing_is_readable(tmp_path: Path) -> None:
    with write_corpus(tmp_path / "c"):
        pass
    assert list(read_corpus(tmp_path / "c")) == []
    with pytest.raises(UserError, match="it is no corpus"):
        list(read_corpus(tmp_path / "missing"))


def test_a_failed_corpus_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), write_corpus(tmp_path / "c") as writer:
        writer.add(full(1))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_damaged_shards_are_named(tmp_path: Path) -> None:
    with write_corpus(tmp_path / "c") as writer:
        writer.add(full(1))
    shard = tmp_path / "c" / "000000.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])

    def read_all() -> Iterator[Document]:
        return read_corpus(tmp_path / "c")

    with pytest.raises(DamagedFile, match=r"000000\.parquet \([\d,]+ bytes\) cannot be read"):
        list(read_all())

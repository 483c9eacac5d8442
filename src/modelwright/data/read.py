"""Files to Documents. A format is one function here and its suffixes in `data.files`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Json
from modelwright.data import html
from modelwright.data.faults import Faults
from modelwright.data.files import BROKEN_STREAM, Source, find_files, format_of, name_of, open_bytes
from modelwright.data.rows import Row, is_short, known, read_rows

MAX_TEXT_BYTES = 1 << 28
"""The largest text that is read as one piece."""


def read(source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a source's files, file by file, in sorted order."""
    for path in find_files(source):
        yield from read_file(path, source, faults)


def read_file(path: Path, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of one file. Each carries the file as its source and its place in `meta`."""
    kind = format_of(path)
    assert kind is not None, f"{path} is of no format that find_files would return"
    return READERS[kind](path, source, faults)


def make_document(
    text: Json, path: Path, source: Source, where: str, faults: Faults, meta: dict[str, Json]
) -> Document | None:
    """A Document of a text from outside, or None after a fault."""
    if not isinstance(text, str):
        faults("text is no string", where, f"the text is {type(text).__name__}, expected a string")
        return None
    try:
        identity = sha256_text(text)
    except UnicodeEncodeError as error:
        faults("not Unicode", where, f"half a surrogate pair at character {error.start}: not valid Unicode")
        return None
    return Document(
        text=text,
        id=identity,
        source=name_of(path),
        licence=source.licence,
        jurisdiction=source.jurisdiction,
        personal_data=source.personal_data,
        meta=meta,
    )


def _read_whole(path: Path, faults: Faults) -> bytes | None:
    try:
        with open_bytes(path) as file:
            content = file.read(MAX_TEXT_BYTES + 1)
    except BROKEN_STREAM as error:
        size = path.stat().st_size if path.exists() else 0
        problem = f"truncated or garbled ({size:,} bytes on disk): {error}"
        faults("file truncated or garbled", name_of(path), problem)
        return None
    if len(content) > MAX_TEXT_BYTES:
        faults(
            "file too large", name_of(path), f"over {MAX_TEXT_BYTES:,} bytes of text in one piece. Split it"
        )
        return None
    return content


def _text(path: Path, source: Source, faults: Faults) -> Iterator[Document]:
    content = _read_whole(path, faults)
    if content is None:
        return
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = (
            f"byte 0x{content[error.start]:02x} at {error.start:,} is not UTF-8. Convert the file to UTF-8"
        )
        faults("not UTF-8", f"{name_of(path)}, line {line}", problem)
        return
    text = text.replace("\r\n", "\n")
    document = make_document(text, path, source, name_of(path), faults, {})
    if document:
        yield document


def _html(path: Path, source: Source, faults: Faults) -> Iterator[Document]:
    content = _read_whole(path, faults)
    if content is None:
        return
    try:
        page = html.decode(content)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        faults(
            "not UTF-8",
            f"{name_of(path)}, line {line}",
            f"not valid {error.encoding}, which the page says it is",
        )
        return
    document = make_document(html.main_text(page), path, source, name_of(path), faults, {})
    if document:
        yield document


def _rows(path: Path, source: Source, faults: Faults) -> Iterator[Document]:
    for row in read_rows(path, faults):
        if source.text_field not in row.fields:
            have = ", ".join(f'"{name}"' for name in list(row.fields)[:20]) or "no fields"
            problem = f'no field "{source.text_field}", it has {have}. Set text_field of the source'
            faults("no text field", row.where, problem)
            continue
        text = row.fields[source.text_field]
        if source.html and isinstance(text, str):
            text = html.main_text(text)
        document = make_document(text, path, known(row, source), row.where, faults, _meta(row, source))
        if document:
            yield document


def _meta(row: Row, source: Source) -> dict[str, Json]:
    """The row's place and its short fields: titles, addresses, scores."""
    kind, number = row.place.split(" ")
    kept = {
        name: value
        for name, value in row.fields.items()
        if name != source.text_field
        and (isinstance(value, bool | int | float) or (isinstance(value, str) and is_short(value)))
    }
    return {kind: int(number), **kept}


READERS: dict[str, Callable[[Path, Source, Faults], Iterator[Document]]] = {
    "text": _text,
    "html": _html,
    "jsonl": _rows,
    "parquet": _rows,
}

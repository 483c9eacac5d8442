"""Texts from outside to Documents: checked, with their place, and with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Json
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.pages import page_text
from modelwright.data.readers.part import Part
from modelwright.data.readers.rows import Row, is_short, known
from modelwright.data.readers.source import Source

MAX_TEXT_BYTES = 1 << 27
"""The largest text that is read as one piece."""


RESERVED = frozenset(
    ["masked", "whole", "piece", "language", "language_score", "personal_data", "quality", "removed_lines"]
) | {"decontaminated", "file", "former_ids", "line", "programming_language", "row", "record"}
"""What steps and readers write into `meta`, and later ones believe."""


def row_documents(rows: Iterator[Row], source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of rows whose texts stand in the source's `text_field`."""
    for row in rows:
        if source.text_field not in row.fields:
            have = ", ".join(f'"{name}"' for name in list(row.fields)[:20]) or "no fields"
            problem = f'no field "{source.text_field}", it has {have}. Set text_field of the source'
            faults("no text field", row.where, problem)
            continue
        text = row.fields[source.text_field]
        if isinstance(text, list) and all(isinstance(part, str) for part in text):
            text = "\n\n".join(text)  # articles, paragraphs: a list of strings is one text
        if source.html and isinstance(text, str):
            text = page_text(text, row.where, source, faults)
            if text is None:
                continue
        meta = _meta(row, source)
        document = make_document(text, row.part, known(row, source), row.where, faults, meta)
        if document:
            yield document


def make_document(
    text: Json, part: Part, source: Source, where: str, faults: Faults, meta: dict[str, Json]
) -> Document | None:
    """A Document of a text from outside, or None after a fault. `meta` says where in the file it stands."""
    if not isinstance(text, str):
        faults("text is no string", where, f"the text is {type(text).__name__}, expected a string")
        return None
    if len(text) > MAX_TEXT_BYTES:
        faults("text too long", where, f"{len(text):,} characters, at most {MAX_TEXT_BYTES:,} are read")
        return None
    try:
        identity = sha256_text(text)
    except UnicodeEncodeError as error:
        faults("not Unicode", where, f"half a surrogate pair at character {error.start}: not valid Unicode")
        return None
    return Document(
        text=text,
        id=identity,
        source=source.name,
        licence=source.licence,
        jurisdiction=source.jurisdiction,
        personal_data=source.personal_data,
        meta={**meta, "file": part.file},
    )


def _meta(row: Row, source: Source) -> dict[str, Json]:
    """The row's place and its short fields: titles, addresses, scores. A field of a name that our own steps
    give a meaning to becomes `row_...`: a row must not say of itself that it was masked."""
    kept = {
        f"row_{name}" if name in RESERVED else name: value
        for name, value in row.fields.items()
        if name != source.text_field
        and is_short(name)
        and (isinstance(value, bool | int | float) or (isinstance(value, str) and is_short(value)))
    }
    return {**kept, row.unit: row.number}

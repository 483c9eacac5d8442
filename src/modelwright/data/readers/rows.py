"""Rows with fields, each with its place so that an error can name it, and the Documents of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from modelwright.base.files import sha256_text
from modelwright.base.policy import PER_DOCUMENT
from modelwright.base.provenance import UNKNOWN
from modelwright.base.schema import Document, Json
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.pages import page_text
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source

MAX_TEXT_BYTES = 1 << 27
"""The largest text that is read as one piece."""

_MAX_META_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class Row:
    """One record and where it stands."""

    fields: dict[str, Json]
    part: Part
    unit: str
    """ "line" or "row"."""
    number: int
    """Of the line or row in the file, counted from 1."""

    @property
    def place(self) -> str:
        """ "line 12"."""
        return f"{self.unit} {self.number}"

    @property
    def where(self) -> str:
        """File and place."""
        return f"{self.part.where}, {self.place}"


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
    """The row's place and its short fields: titles, addresses, scores."""
    kept = {
        name: value
        for name, value in row.fields.items()
        if name != source.text_field
        and (isinstance(value, bool | int | float) or (isinstance(value, str) and is_short(value)))
    }
    return {**kept, row.unit: row.number}


def known(row: Row, source: Source) -> Source:
    """The source's facts, and the row's own where the source says nothing, or that each document says it."""
    licence = row.fields.get("licence") or row.fields.get("license")
    jurisdiction, personal = row.fields.get("jurisdiction"), row.fields.get("personal_data")
    own: dict[str, Json] = {
        name: UNKNOWN for name in ("licence", "jurisdiction") if getattr(source, name) == PER_DOCUMENT
    }
    silent = (UNKNOWN, PER_DOCUMENT)
    if source.licence in silent and isinstance(licence, str) and is_short(licence):
        own["licence"] = licence
    if source.jurisdiction in silent and isinstance(jurisdiction, str) and is_short(jurisdiction):
        own["jurisdiction"] = jurisdiction
    if source.personal_data is None and isinstance(personal, bool):
        own["personal_data"] = personal
    return source.model_copy(update=own) if own else source


def is_short(text: str) -> bool:
    """Whether a field is a title or a name, and not a text."""
    if not 0 < len(text) <= _MAX_META_CHARACTERS:
        return False
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)

"""Rows with fields, each with its place so that an error can name it, and the Documents of them."""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.base.policy import PER_DOCUMENT
from modelwright.base.provenance import UNKNOWN
from modelwright.base.schema import Json
from modelwright.data.readers.part import Part
from modelwright.data.readers.source import Source

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

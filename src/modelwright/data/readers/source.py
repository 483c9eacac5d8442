"""What a recipe says of a source, and which format a file's name speaks of."""

from __future__ import annotations

from datetime import date
from pathlib import PurePath
from typing import Any, Literal

from pydantic import field_validator, model_validator

from modelwright.base.config import Config
from modelwright.data.extract.limits import Limits

Format = Literal[
    "text", "lines", "html", "jsonl", "json", "csv", "tsv", "parquet", "arrow", "warc", "code", "pdf"
]
LayoutName = Literal[
    "messages",
    "sharegpt",
    "alpaca",
    "dolly",
    "self_instruct",
    "question_answer",
    "question_answers",
    "prompt_completion",
    "labelled",
    "preference",
    "transcript",
    "tree",
]
Extractor = Literal["resiliparse", "trafilatura", "plain"]
COMPRESSIONS = (".gz", ".zst")
FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".md": "text",
    ".html": "html",
    ".htm": "html",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".warc": "warc",
    ".pdf": "pdf",
}
"""Suffix -> format."""
NAMED_ONLY: dict[str, Format] = {".json": "json"}
"""Suffixes that count only where the file itself is named: in folders they are mostly of what describes the
texts beside them."""
UNCOMPRESSED = ("parquet", "arrow", "pdf")
"""Formats that compress by themselves, so that .gz or .zst behind their suffix is not known."""


class Stated(Config):
    """What a recipe states of something that a model learns from, or begins as."""

    licence: str = "unknown"
    """SPDX identifier or expression where there is one: CC0-1.0, MIT OR Apache-2.0."""
    jurisdiction: str = "unknown"
    """ISO 3166-1 alpha-2 code."""
    legal_basis: str = "unknown"
    """Why the texts may be used: licence, consent, contract, text and data mining exception..."""
    retention: str = "unknown"
    """Until when they may be kept: unknown, indefinite, or the last day as YYYY-MM-DD."""
    personal_data: bool | None = None
    """Whether the texts hold personal data; leave it out when nobody has looked."""

    @field_validator("retention", mode="before")
    @classmethod
    def _from_date(cls, value: Any) -> Any:
        return value.isoformat() if isinstance(value, date) else value  # YAML reads 2030-12-31 as a date

    @field_validator("jurisdiction", mode="before")
    @classmethod
    def _from_norway(cls, value: Any) -> Any:
        return "NO" if value is False else value  # YAML reads NO as a boolean

    @field_validator("retention")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        if value not in ("unknown", "indefinite"):
            try:
                date.fromisoformat(value)
            except ValueError:
                raise ValueError("expected unknown, indefinite or a day as YYYY-MM-DD") from None
        return value


class Source(Stated):
    """Where documents come from, and what is known about all of them. In a recipe, a bare string is
    short for `{path: ...}`."""

    path: str
    """"atlas" (the embedded corpus), or a file, a folder (searched to the bottom), or a glob."""
    name: str = ""
    """What its documents name as their source; the path as written where nothing is said."""
    format: Format | None = None
    """The format of all files, whatever their suffixes say. Only so: lines (each line is a document), and
    code (the path is a git work tree)."""
    text_field: str = "text"
    """The field or column with the text in JSON Lines, CSV, Parquet and Arrow."""
    layout: LayoutName | None = None
    """How rows of conversations or preference pairs name their fields (`data/conversations/layouts.py`);
    found from the first rows of each file where it is not said."""
    fields: dict[str, str] = {}
    """The rows' own names of a layout's fields: {question: Frage, answer: Antwort}."""
    html: bool = False
    """The text field holds HTML, of which the main text is wanted."""
    extract: Extractor = "resiliparse"
    """Who finds the main text of pages; "plain" takes all that is visible."""
    limits: Limits = Limits()
    """What the extraction of one document may cost; then it is left out, with the reason."""

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        settings = {"path": value} if isinstance(value, str) else value
        if isinstance(settings, dict) and isinstance(settings.get("path"), str) and not settings.get("name"):
            return {**settings, "name": settings["path"]}
        return settings

    @property
    def is_atlas(self) -> bool:
        """Whether it is the embedded corpus (write ./atlas for a folder of that name)."""
        return self.path == "atlas"

    @property
    def is_written(self) -> bool:
        """Whether it is what the station `synthesize` of the same life writes (./synthesize is a folder)."""
        return self.path == "synthesize"

    @property
    def is_outside(self) -> bool:
        """Whether it is files that somebody else has put there."""
        return not self.is_atlas and not self.is_written


def format_of(path: str, is_named: bool = False) -> Format | None:
    """The format that a name's suffix stands for, or None. `is_named`: the source names this very file."""
    formats = FORMATS | NAMED_ONLY if is_named else FORMATS
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        kind = formats.get(suffixes[-2]) if len(suffixes) > 1 else None
        is_known = kind not in UNCOMPRESSED and (kind, suffixes[-1]) != ("warc", ".zst")
        return kind if is_known else None
    return formats.get(suffixes[-1]) if suffixes else None


def suffixes_known() -> str:
    """For an error: what could have been read."""
    alone = [suffix for suffix, kind in FORMATS.items() if kind in UNCOMPRESSED]
    return (
        f" Readable are {', '.join(FORMATS | NAMED_ONLY)}, all but {', '.join(alone)} also with"
        f" {' or '.join(COMPRESSIONS)}. Others need a 'format'."
    )

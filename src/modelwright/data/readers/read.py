"""Files to Documents. To add a format, add one file to this folder, named like the format, and its suffix
to `source.FORMATS`. The file holds `read(part, source, faults)`, which gives Documents, or, where records
have fields, `rows(part, faults)`, which gives Rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelwright.base.schema import Document
from modelwright.data.readers.documents import row_documents
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.files import File, find_files
from modelwright.data.readers.part import Part
from modelwright.data.readers.records import check_unchanged, module_of, part_of
from modelwright.data.readers.source import Source


def read(source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a source's files, file by file, sorted by name."""
    for file in find_files(source, faults):
        yield from read_file(file, source, faults)


def read_file(file: File, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of one file. Each names its file and its place there in `meta`."""
    part = part_of(file, faults)
    return read_part(part, source, faults) if part else iter(())


def read_part(part: Part, source: Source, faults: Faults) -> Iterator[Document]:
    """The documents of a part of a file. The parts in order give what the whole file gives."""
    module = module_of(part.format)
    if hasattr(module, "rows"):
        yield from row_documents(module.rows(part, faults), source, faults)
    else:
        yield from module.read(part, source, faults)
    check_unchanged(part, faults)

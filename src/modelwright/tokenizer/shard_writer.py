"""Writing token ids to disk: raw shards and one index, see `tokenizer.shards` for reading.

A folder of shards holds, for each shard, two raw little-endian files, and one `index.json`:

    00000.tokens.bin      ids, uint16 or uint32 by the size of the vocabulary
    00000.documents.bin   one record a document: where it ends, its bytes, its source, its id
    index.json            counts, names of the sources, sizes and sha256 of the files

Each document is followed by `<|endoftext|>`. The folder appears whole or not at all.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import atomic_directory, write_json

INDEX_FILE = "index.json"
FORMAT = "modelwright-token-shards-1"
RECORD = np.dtype([("end", "<i8"), ("bytes", "<i8"), ("source", "<u4"), ("id", "S32")])
"""`end` counts tokens in this shard up to and with the document's `<|endoftext|>`."""
_PACKED = struct.Struct("<qqI32s")
"""The same record for one document: ten times as fast as an array of one row."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


class ShardFile(Config):
    """One raw file as the index describes it."""

    name: str
    bytes: int
    sha256: str


class Shard(Config):
    """One shard as the index describes it."""

    tokens: ShardFile
    documents: ShardFile


class Index(Config):
    """What `index.json` holds."""

    format: str = FORMAT
    dtype: str
    vocab_size: int
    end_of_text_id: int
    num_tokens: int
    num_documents: int
    num_bytes: int
    sources: tuple[str, ...]
    shards: tuple[Shard, ...]


def dtype_for(vocab_size: int) -> np.dtype[Any]:
    """Little-endian uint16 while it is wide enough, else uint32."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


@dataclass(slots=True)
class _Output:
    """A raw file being written: hashed as it grows."""

    path: Path
    file: BinaryIO
    hash: Any = field(default_factory=hashlib.sha256)
    size: int = 0

    def write(self, content: bytes) -> None:
        self.file.write(content)
        self.hash.update(content)
        self.size += len(content)

    def close(self) -> ShardFile:
        self.file.close()
        return ShardFile(name=self.path.name, bytes=self.size, sha256=self.hash.hexdigest())


class ShardWriter:
    """Writes documents in order; memory does not grow with the corpus. Made by `write_shards`."""

    def __init__(self, folder: Path, vocab_size: int, end_of_text_id: int, shard_tokens: int) -> None:
        self._folder = folder
        self._vocab_size, self._end_of_text_id, self._shard_tokens = vocab_size, end_of_text_id, shard_tokens
        self._dtype = dtype_for(vocab_size)
        self._sources: dict[str, int] = {}
        self._shards: list[Shard] = []
        self._open: tuple[_Output, _Output] | None = None
        self._tokens_here = 0
        self.num_tokens = self.num_documents = self.num_bytes = 0

    def add(
        self, ids: Sequence[int] | NDArray[np.integer[Any]], *, document: str, source: str, num_bytes: int
    ) -> None:
        """Append one document: its ids without the end, its id (hex sha256), its UTF-8 bytes."""
        if not _SHA256.fullmatch(document):
            raise UserError(f"document id '{document}' from {source}: expected the hex sha256 of its text")
        given = ids if isinstance(ids, np.ndarray) else np.array(ids, dtype=np.int64)
        inside = not len(given) or (int(given.min()) >= 0 and int(given.max()) < self._vocab_size)
        assert inside, f"an id outside the vocabulary of {self._vocab_size}"
        tokens = np.empty(len(given) + 1, dtype=self._dtype)
        tokens[:-1], tokens[-1] = given, self._end_of_text_id
        tokens_file, documents_file = self._outputs()
        tokens_file.write(tokens.tobytes())
        self._tokens_here += len(tokens)
        number = self._sources.setdefault(source, len(self._sources))
        documents_file.write(_PACKED.pack(self._tokens_here, num_bytes, number, bytes.fromhex(document)))
        self.num_tokens += len(tokens)
        self.num_documents += 1
        self.num_bytes += num_bytes
        if self._tokens_here >= self._shard_tokens:
            self.close_shard()

    def close_shard(self) -> None:
        """Finish the shard at hand; the next document opens another."""
        if self._open is not None:
            tokens, documents = self._open
            self._shards.append(Shard(tokens=tokens.close(), documents=documents.close()))
            self._open, self._tokens_here = None, 0

    def index(self) -> Index:
        """The index of what was written."""
        return Index(
            dtype=self._dtype.str,
            vocab_size=self._vocab_size,
            end_of_text_id=self._end_of_text_id,
            num_tokens=self.num_tokens,
            num_documents=self.num_documents,
            num_bytes=self.num_bytes,
            sources=tuple(self._sources),
            shards=tuple(self._shards),
        )

    def _outputs(self) -> tuple[_Output, _Output]:
        if self._open is None:
            stem = f"{len(self._shards):05d}"
            paths = [self._folder / f"{stem}.{kind}.bin" for kind in ("tokens", "documents")]
            self._open = (_Output(paths[0], paths[0].open("wb")), _Output(paths[1], paths[1].open("wb")))
        return self._open


@contextmanager
def write_shards(
    folder: Path, *, vocab_size: int, end_of_text_id: int, shard_tokens: int = 1 << 26
) -> Generator[ShardWriter]:
    """A writer of `folder`, which appears when the block ends well. A shard is closed when it holds
    `shard_tokens` tokens; a document never lies in two shards."""
    if shard_tokens < 1:
        raise ConfigError(f"shard_tokens is {shard_tokens}, expected at least 1")
    with atomic_directory(folder) as temporary:
        writer = ShardWriter(temporary, vocab_size, end_of_text_id, shard_tokens)
        try:
            yield writer
        finally:
            writer.close_shard()
        write_json(temporary / INDEX_FILE, writer.index().model_dump(mode="json"))

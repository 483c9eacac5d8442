"""Token ids on disk, read through memory maps, with a way back from every token to its document.

The ids of all shards form one long sequence; a position in it leads to its document by binary search.
Files are described in `tokenizer.shard_writer`, which writes them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from modelwright.base.config import validate
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json, sha256_file
from modelwright.tokenizer.shard_writer import FORMAT, INDEX_FILE, RECORD, Index, ShardFile, dtype_for


class TokenShards:
    """A folder of shards, read through the page cache. `len()` is the number of tokens."""

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.index = folder, index
        self._dtype = np.dtype(index.dtype)
        self._tokens = [self._map(shard.tokens, self._dtype) for shard in index.shards]
        self._documents = [self._map(shard.documents, RECORD) for shard in index.shards]
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._tokens)], dtype=np.int64)
        self._first_documents = np.cumsum([0, *(len(d) for d in self._documents)], dtype=np.int64)
        self._boundaries = self._join_boundaries()

    @classmethod
    def open(cls, folder: Path) -> TokenShards:
        """Open a folder; sizes and boundaries are checked, hashes only by `verify`."""
        folder = Path(folder)
        file = folder / INDEX_FILE
        if not file.is_file():
            raise UserError(f"{folder} has no {INDEX_FILE}: it is no folder of token shards. Run 'tokenize'.")
        index = validate(Index, cast(dict[str, Any], read_json(file)), str(file))
        if index.format != FORMAT or index.dtype != dtype_for(index.vocab_size).str:
            raise DamagedFile(
                f"{file}: format '{index.format}' with ids as '{index.dtype}' is not known here"
            )
        return cls(folder, index)

    def __len__(self) -> int:
        return self.index.num_tokens

    @property
    def num_documents(self) -> int:
        """Number of documents."""
        return self.index.num_documents

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the documents' text, for bits per byte."""
        return self.index.num_bytes

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary that the ids belong to."""
        return self.index.vocab_size

    @property
    def boundaries(self) -> NDArray[np.int64]:
        """(num_documents + 1,) positions: document i is [boundaries[i], boundaries[i + 1]), and its
        last token is `<|endoftext|>`."""
        return self._boundaries

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """(length,) ids from position `start`, across documents and shards."""
        if start < 0 or length < 0 or start + length > len(self):
            raise IndexError(f"tokens [{start}, {start + length}) of {len(self)}")
        out = np.empty(length, dtype=np.int64)
        shard = int(np.searchsorted(self._starts, start, side="right")) - 1
        done = 0
        while done < length:
            offset = start + done - int(self._starts[shard])
            piece = self._tokens[shard][offset : offset + length - done]
            if int(piece.max()) >= self.vocab_size:
                raise DamagedFile(
                    f"{self.folder / self.index.shards[shard].tokens.name} holds id {int(piece.max())}, the "
                    f"vocabulary ends at {self.vocab_size - 1}. Tokenize again."
                )
            out[done : done + len(piece)] = piece
            done, shard = done + len(piece), shard + 1
        return out

    def document_of(self, position: int) -> tuple[str, str]:
        """(document id, source) of the token at `position`."""
        if not 0 <= position < len(self):
            raise IndexError(f"token {position} of {len(self)}")
        return self.document(int(np.searchsorted(self._boundaries, position, side="right")) - 1)

    def document(self, number: int) -> tuple[str, str]:
        """(document id, source) of document `number`."""
        if not 0 <= number < self.num_documents:
            raise IndexError(f"document {number} of {self.num_documents}")
        shard = int(np.searchsorted(self._first_documents, number, side="right")) - 1
        record = self._documents[shard][number - int(self._first_documents[shard])]
        return bytes(record["id"]).ljust(32, b"\0").hex(), self.index.sources[int(record["source"])]

    @cached_property
    def source_numbers(self) -> NDArray[np.uint32]:
        """(num_documents,) the number of each document's source in `index.sources`."""
        return np.concatenate([np.asarray(records["source"]) for records in self._documents])

    def numbers_of(self, sources: Collection[str]) -> list[int]:
        """The numbers of some sources."""
        return [number for number, name in enumerate(self.index.sources) if name in sources]

    def tokens_of_sources(self) -> dict[str, int]:
        """Source -> its tokens."""
        lengths = np.diff(self._boundaries)
        sums = np.bincount(self.source_numbers, weights=lengths, minlength=len(self.index.sources))
        return {name: int(total) for name, total in zip(self.index.sources, sums, strict=True)}

    def documents_of(self, shard: int) -> Iterator[tuple[str, str]]:
        """(document id, source) of every document of one shard."""
        for record in self._documents[shard]:
            yield bytes(record["id"]).ljust(32, b"\0").hex(), self.index.sources[int(record["source"])]

    def find(self, document: str) -> list[int]:
        """Numbers of the documents with this id: which tokens hold a text that must go."""
        wanted = np.bytes_(bytes.fromhex(document))
        hits = [
            int(first) + np.flatnonzero(records["id"] == wanted)
            for first, records in zip(self._first_documents, self._documents, strict=False)
        ]
        return [int(number) for numbers in hits for number in numbers]

    def verify(self) -> None:
        """Compare every file's sha256 with the index."""
        for shard in self.index.shards:
            for file in (shard.tokens, shard.documents):
                if sha256_file(self.folder / file.name) != file.sha256:
                    raise DamagedFile(
                        f"{self.folder / file.name} has changed since it was written. Tokenize again."
                    )

    def _map(self, file: ShardFile, dtype: np.dtype[Any]) -> NDArray[Any]:
        path = self.folder / file.name
        size = path.stat().st_size if path.is_file() else None
        if size != file.bytes or file.bytes == 0 or file.bytes % dtype.itemsize:
            found = "is missing" if size is None else f"has {size:,} bytes"
            raise DamagedFile(f"{path} {found}, expected {file.bytes:,} bytes. Tokenize again.")
        return np.memmap(path, dtype=dtype, mode="r")

    def _join_boundaries(self) -> NDArray[np.int64]:
        pieces = [np.zeros(1, dtype=np.int64)]
        for shard, records in enumerate(self._documents):
            ends = np.asarray(records["end"], dtype=np.int64)
            name = self.folder / self.index.shards[shard].documents.name
            if bool((np.diff(ends, prepend=0) < 1).any()) or int(ends[-1]) != len(self._tokens[shard]):
                raise DamagedFile(
                    f"{name}: its documents do not add up to the shard's tokens. Tokenize again."
                )
            if int(records["source"].max()) >= len(self.index.sources):
                raise DamagedFile(f"{name} names a source that is not in {INDEX_FILE}. Tokenize again.")
            pieces.append(ends + self._starts[shard])
        boundaries = np.concatenate(pieces)
        if len(boundaries) - 1 != self.num_documents or int(boundaries[-1]) != len(self):
            raise DamagedFile(
                f"{self.folder / INDEX_FILE} says {self.num_documents:,} documents and {len(self):,} tokens, "
                f"the shards hold {len(boundaries) - 1:,} and {int(boundaries[-1]):,}. Tokenize again."
            )
        return boundaries

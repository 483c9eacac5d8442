from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from modelwright.base.errors import ConfigError, DamagedFile, UserError
from modelwright.base.files import sha256_text
from modelwright.tokenizer.shard_writer import write_shards
from modelwright.tokenizer.shards import TokenShards

DOCUMENTS = [([5, 6, 7], "a.txt"), ([], "a.txt"), ([8], "b.txt"), ([9] * 6, "a.txt"), ([299, 1], "c.txt")]
FLAT = [5, 6, 7, 0, 0, 8, 0, 9, 9, 9, 9, 9, 9, 0, 299, 1, 0]


def write(folder: Path, vocab_size: int = 300, shard_tokens: int = 5) -> TokenShards:
    with write_shards(folder, vocab_size=vocab_size, end_of_text_id=0, shard_tokens=shard_tokens) as writer:
        for number, (ids, source) in enumerate(DOCUMENTS):
            writer.add(ids, document=sha256_text(str(number)), source=source, num_bytes=10 + number)
    return TokenShards.open(folder)


@pytest.mark.parametrize("shard_tokens", [1, 5, 1000])
def test_every_window_reads_as_the_flat_sequence(tmp_path: Path, shard_tokens: int) -> None:
    shards = write(tmp_path / "s", shard_tokens=shard_tokens)
    assert (len(shards), shards.num_documents, shards.num_bytes) == (len(FLAT), 5, 60)
    for start in range(len(FLAT) + 1):
        for length in range(len(FLAT) - start + 1):
            got = shards.read(start, length)
            assert got.dtype == np.int64 and got.tolist() == FLAT[start : start + length]
    shards.verify()


@pytest.mark.parametrize("shard_tokens", [1, 5, 1000])
def test_each_token_leads_to_its_document(tmp_path: Path, shard_tokens: int) -> None:
    shards = write(tmp_path / "s", shard_tokens=shard_tokens)
    owners = [n for n, (ids, _) in enumerate(DOCUMENTS) for _ in range(len(ids) + 1)]
    for position, owner in enumerate(owners):
        assert shards.document_of(position) == (sha256_text(str(owner)), DOCUMENTS[owner][1])
    assert shards.boundaries.tolist() == [0, 4, 5, 7, 14, 17]
    assert [shards.find(sha256_text(str(n))) for n in range(6)] == [[0], [1], [2], [3], [4], []]


def test_ids_that_end_in_zero_bytes_survive(tmp_path: Path) -> None:
    document = "ab" * 30 + "0000"
    with write_shards(tmp_path / "s", vocab_size=300, end_of_text_id=0) as writer:
        writer.add([4], document=document, source="x", num_bytes=1)
    shards = TokenShards.open(tmp_path / "s")
    assert shards.document_of(1) == (document, "x")
    assert shards.find(document) == [0]


def test_ids_are_little_endian_and_as_narrow_as_they_can_be(tmp_path: Path) -> None:
    write(tmp_path / "narrow", 65_536, 1000)
    write(tmp_path / "wide", 65_537, 1000)
    narrow = (tmp_path / "narrow" / "00000.tokens.bin").read_bytes()
    wide = (tmp_path / "wide" / "00000.tokens.bin").read_bytes()
    assert narrow[:4] == b"\x05\x00\x06\x00" and len(narrow) == 2 * len(FLAT)
    assert wide[:8] == b"\x05\0\0\0\x06\0\0\0" and len(wide) == 4 * len(FLAT)
    assert TokenShards.open(tmp_path / "wide").read(0, len(FLAT)).tolist() == FLAT


def test_no_documents_is_a_folder_of_nothing(tmp_path: Path) -> None:
    with write_shards(tmp_path / "s", vocab_size=300, end_of_text_id=0):
        pass
    shards = TokenShards.open(tmp_path / "s")
    assert (len(shards), shards.num_documents, shards.boundaries.tolist()) == (0, 0, [0])
    assert shards.read(0, 0).tolist() == []


def test_positions_outside_are_refused(tmp_path: Path) -> None:
    shards = write(tmp_path / "s")
    for start, length in ((-1, 2), (0, len(FLAT) + 1), (len(FLAT), 1), (0, -1)):
        with pytest.raises(IndexError):
            shards.read(start, length)
    for position in (-1, len(FLAT)):
        with pytest.raises(IndexError):
            shards.document_of(position)


def test_a_failed_writer_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with (
        pytest.raises(RuntimeError),
        write_shards(folder, vocab_size=300, end_of_text_id=0, shard_tokens=5) as writer,
    ):
        writer.add([1, 2], document=sha256_text("x"), source="x", num_bytes=1)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="Run 'tokenize'"):
        TokenShards.open(folder)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="outside the vocabulary of 300"),
        write_shards(tmp_path / "s", vocab_size=300, end_of_text_id=0) as writer,
    ):
        writer.add([300], document=sha256_text("x"), source="x", num_bytes=1)
    with (
        pytest.raises(UserError, match="expected the hex sha256"),
        write_shards(tmp_path / "s", vocab_size=300, end_of_text_id=0) as writer,
    ):
        writer.add([3], document="x" * 64, source="x", num_bytes=1)
    with pytest.raises(ConfigError, match="shard_tokens is 0"):
        write(tmp_path / "s", shard_tokens=0)


def test_truncated_missing_and_garbled_files_are_named(tmp_path: Path) -> None:
    write(tmp_path / "s")
    tokens, documents = tmp_path / "s" / "00001.tokens.bin", tmp_path / "s" / "00001.documents.bin"
    index, good = tmp_path / "s" / "index.json", {f: f.read_bytes() for f in (tmp_path / "s").iterdir()}

    def damage(file: Path, content: bytes | None, message: str) -> None:
        file.unlink()
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(DamagedFile, match=message):
            shards = TokenShards.open(tmp_path / "s")
            shards.read(0, len(shards))
        file.write_bytes(good[file])

    size = len(good[tokens])
    damage(tokens, good[tokens][:-2], rf"00001\.tokens\.bin has {size - 2} bytes, expected {size} bytes")
    damage(tokens, None, r"00001\.tokens\.bin is missing")
    damage(tokens, b"\xff" * size, r"00001\.tokens\.bin holds id 65535, the vocabulary ends at 299")
    damage(documents, b"\0" * len(good[documents]), r"00001\.documents\.bin: its documents do not add up")
    damage(index, good[index][:-20], r"index\.json is not valid JSON")
    damage(index, good[index].replace(b'"<u2"', b'"<u4"'), "is not known here")
    damage(index, good[index].replace(b'"num_tokens": 17', b'"num_tokens": 18'), "says 5 documents and 18")
    sources = json.loads(good[index]) | {"sources": ["a.txt"]}
    damage(index, json.dumps(sources).encode(), "names a source that is not in")


def test_verify_sees_a_changed_byte(tmp_path: Path) -> None:
    shards = write(tmp_path / "s")
    file = tmp_path / "s" / "00000.tokens.bin"
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(DamagedFile, match=r"00000\.tokens\.bin has changed"):
        shards.verify()

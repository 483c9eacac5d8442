"""The text of some sources, read out of shards that hold others too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.tokenizer.selection import Selection
from modelwright.tokenizer.shard_writer import write_shards
from modelwright.tokenizer.shards import TokenShards

END = 99
DOCUMENTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9)), min_size=1, max_size=25)


def shards_of(folder: Path, documents: list[tuple[str, int]], shard_tokens: int = 12) -> TokenShards:
    with write_shards(folder, vocab_size=100, end_of_text_id=END, shard_tokens=shard_tokens) as writer:
        for number, (source, size) in enumerate(documents):
            ids = [number] * size
            writer.add(ids, document=sha256_text(str(number)), source=source, num_bytes=size)
    return TokenShards.open(folder)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=DOCUMENTS, wanted=st.sets(st.sampled_from("abc"), min_size=1))
def test_it_is_the_documents_of_its_sources_in_order(
    tmp_path: Path, documents: list[tuple[str, int]], wanted: set[str]
) -> None:
    shards = shards_of(tmp_path / "shards", documents)
    expected = [
        t for n, (source, size) in enumerate(documents) if source in wanted for t in [n] * size + [END]
    ]
    stream = Selection(shards, wanted)
    assert len(stream) == len(expected) and stream.read(0, len(stream)).tolist() == expected
    for start in range(0, len(expected), 5):
        length = min(4, len(expected) - start)
        assert stream.read(start, length).tolist() == expected[start : start + length]
        assert shards.read(stream.position(start), 1)[0] == expected[start]
    sizes = shards.tokens_of_sources()
    assert sum(sizes.get(source, 0) for source in wanted) == len(expected)


def test_nothing_outside_can_be_read(tmp_path: Path) -> None:
    stream = Selection(shards_of(tmp_path / "shards", [("a", 3), ("b", 5), ("a", 2)]), {"a"})
    assert len(stream) == 7
    for start, length in [(-1, 2), (0, 8), (7, 1)]:
        with pytest.raises(IndexError):
            stream.read(start, length)
    with pytest.raises(IndexError):
        stream.position(7)
    empty = Selection(shards_of(tmp_path / "other", [("a", 3)]), {"z"})
    assert len(empty) == 0 and empty.read(0, 0).dtype == np.int64

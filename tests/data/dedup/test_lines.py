from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document
from modelwright.data.dedup import native
from modelwright.data.dedup.lines import Config, find_pieces, ranges_of, too_many
from modelwright.data.dedup.normal import normalise
from modelwright.data.dedup.ranges import Removal, remove


def cleaned(units: list[list[str]], config: Config, folder: Path | None = None) -> list[list[str]]:
    """The texts of all units without the pieces that go."""
    pieces = [find_pieces(unit, config) for unit in units]
    masks = list(too_many([piece.key for piece in pieces], config, folder))
    made: list[list[str]] = []
    for unit, piece, stays in zip(units, pieces, masks, strict=True):
        ranges = ranges_of(piece, stays)
        made.append([])
        for row, text in enumerate(unit):
            left = remove(Document(text=text, id=sha256_text(text), source=""), ranges.of(row), Removal())
            made[-1].append(left.text if isinstance(left, Document) else "")
    return made


LINES = [
    "Sign up now, for our newsletter!",
    "sign up  now for our newsletter",
    "Chapter 1",
    "}",
    "ütf 東京 8",
    "\0",
]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(LINES), max_size=6).map("\n".join), max_size=10),
    st.integers(1, 12),
    st.integers(0, 2),
    st.sampled_from([None, 1, 3]),
    st.sampled_from([1 << 16, 1 << 24]),
    st.booleans(),
)
def test_lines_as_a_plain_loop_would_have_it(
    texts: list[str], least: int, keep: int, above: int | None, memory_bytes: int, plain: bool
) -> None:
    config = Config(min_letters=least, keep=keep, drop_all_above=above, memory_bytes=memory_bytes)

    def key(line: str) -> str:
        return normalise(line)

    every = [key(line) for text in texts for line in text.split("\n")]
    seen: dict[str, int] = {}
    wanted = []
    for text in texts:
        left = []
        for line in text.splitlines(keepends=True) if "\x85" not in text else []:
            name = key(line)
            number = seen[name] = seen.get(name, 0) + 1
            many = above is not None and every.count(name) > above
            if len(name.replace(" ", "")) < least or (number <= keep and not many):
                left.append(line)
        wanted.append("".join(left))
    with pytest.MonkeyPatch.context() as patch:
        if plain:
            patch.setattr(native, "library", lambda: None)
        half = len(texts) // 2
        assert list(chain(*cleaned([texts[:half], texts[half:]], config))) == wanted


def test_groups_over_many_blocks(tmp_path: Path) -> None:
    """Copies that wait for their group's size to be known are found over any number of blocks."""
    keys = np.repeat(np.array([3, 1, 2], np.uint64), [5000, 10, 3000])
    order = np.random.default_rng(0).permutation(len(keys))
    units = np.split(keys[order], [100, 5000])
    for memory_bytes in (1 << 16, 1 << 28):
        for above, kept in ((None, [10, 20, 20]), (3000, [10, 20, 0]), (9, [0, 0, 0]), (10, [10, 0, 0])):
            config = Config(keep=20, drop_all_above=above, memory_bytes=memory_bytes)
            masks = np.concatenate(list(too_many(units, config, tmp_path)))
            left = keys[order][masks]
            assert [int(np.sum(left == key)) for key in (1, 2, 3)] == kept
            firsts = [
                np.flatnonzero(keys[order] == key)[:count] for key, count in zip((1, 2, 3), kept, strict=True)
            ]
            assert np.flatnonzero(masks).tolist() == sorted(np.concatenate(firsts).tolist())
    assert list(tmp_path.iterdir()) == []


def test_short_common_lines_are_left_alone() -> None:
    notice = "All rights reserved. Redistribution is permitted under the terms below.\n"
    texts = ["Chapter 1\nOnce.\n" + notice, "Chapter 1\nTwice.\n" + notice.upper() + "}\n}\n"]
    assert cleaned([texts], Config()) == [[texts[0], "Chapter 1\nTwice.\n}\n}\n"]]


def test_paragraphs(path: str) -> None:
    long = "A paragraph of\ntwo lines that is long enough."
    texts = [f"One.\n\n{long}\n\nTwo.", f"{long}\n \n\nThree.", f"Four.\r\n\r\n{long}"]
    config = Config(piece="paragraph", min_letters=20)
    assert cleaned([texts[:1], texts[1:]], config) == [[texts[0]], ["Three.", "Four.\r\n\r\n"]]


def test_runs_of_three_sentences(path: str) -> None:
    run = "It was dark. Was it? It rained all night! "
    texts = [f"First. {run}Then it ended.", f"Other words. {run}No more.", "It was dark. Was it? Yes."]
    config = Config(piece="sentences", min_letters=20)
    assert cleaned([texts], config) == [[texts[0], "Other words. No more.", texts[2]]]
    assert cleaned(
        [["私は学生です。これは本です。雨が降る。"] * 2], config.model_copy(update={"min_letters": 5})
    ) == [["私は学生です。これは本です。雨が降る。", ""]]


def test_odd_texts(path: str, tmp_path: Path) -> None:
    texts = ["", "x", "\n\n\n", "\0", "y" * 300_000, "y" * 300_000]
    for piece in ("line", "paragraph", "sentences"):
        made = cleaned([texts[:3], [], texts[3:]], Config(piece=piece), tmp_path)
        expected = texts[:5] + ([""] if piece != "sentences" else texts[5:])
        assert list(chain(*made)) == expected
    assert list(too_many([], Config())) == []

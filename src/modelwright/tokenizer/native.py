"""The compiled encoder and learner of `native.cpp`, on arrays.

Both exist only where the file can be compiled and the pattern is one that its scanner knows; otherwise
callers take the `tokenizers` library, which gives the same ids and the same vocabulary.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, pre_tokenizers

from modelwright.base.files import atomic_path
from modelwright.base.native import cache_folder, find
from modelwright.tokenizer.patterns import PATTERN_NAMES, Cut, PatternName, bytes_of

SOURCE = Path(__file__).with_name("native.cpp")
_SIGNATURES = {
    "encoder_new": "pinppi>p",
    "encoder_whole_first": "ppppi",
    "encoder_encode": "pppipp>i",
    "encoder_free": "p",
    "learner_new": "pini>p",
    "learner_add": "pppii",
    "learner_learn": "ppiii>i",
    "learner_merges": "pp",
    "learner_forgotten": "p>i",
    "learner_free": "p",
    "pieces": "pinpip>i",
}
_UNASSIGNED = 0x40000
"""From here on no code point is a letter, a number or white space, in any version of Unicode so far."""
_LINE_BREAK = 4
_REGEX_OF_CLASS = {1: r"\p{L}+", 2: r"\p{N}+", 3: r"\s+", _LINE_BREAK: "[\r\n]"}
"""As native.cpp numbers them; the later wins. Everything else is 0."""


@cache
def library() -> ctypes.CDLL | None:
    """The compiled functions; None where they cannot be had."""
    return find(SOURCE, _SIGNATURES)


@cache
def classes() -> NDArray[np.uint8]:
    r"""(262144,) the class of each code point: 0, letter, number, white space, or line break.

    `\p{L}`, `\p{N}` and `\s` mean what the `tokenizers` library means by them, in its version of Unicode, so
    it is asked, and the answer kept in the user's cache: asking takes a second."""
    file = cache_folder() / "unicode" / f"tokenizers-{tokenizers.__version__}.npy"
    try:
        kept = np.load(file, allow_pickle=False)
        if kept.shape == (_UNASSIGNED,) and kept.dtype == np.uint8 and int(kept.max()) == _LINE_BREAK:
            return kept
    except (OSError, ValueError):
        pass
    made = _ask_for_classes()
    try:
        with atomic_path(file) as temporary, temporary.open("wb") as out:
            np.save(out, made, allow_pickle=False)
    except OSError:
        pass  # a home that cannot be written to costs a second at each start
    return made


def _ask_for_classes() -> NDArray[np.uint8]:
    known = [code for code in range(_UNASSIGNED) if not 0xD800 <= code < 0xE000]
    text, codes = "".join(map(chr, known)), np.array(known)
    made = np.zeros(_UNASSIGNED, dtype=np.uint8)
    for kind, regex in _REGEX_OF_CLASS.items():
        split = pre_tokenizers.Split(Regex(regex), behavior="removed", invert=True)
        for _, (start, end) in split.pre_tokenize_str(text):
            made[codes[start:end]] = kind
    return made


def joined(texts: Sequence[str]) -> tuple[bytes, NDArray[np.int64]]:
    """The UTF-8 bytes of all texts, and where each one ends."""
    encoded = [text.encode() for text in texts]
    return b"".join(encoded), np.cumsum([len(text) for text in encoded], dtype=np.int64)


def pieces(text: str, pattern: PatternName) -> list[str]:
    """How the scanner cuts a text: what tests compare with the library's regex."""
    found, table, data = library(), classes(), text.encode()
    assert found is not None
    ends = np.empty(len(data), dtype=np.int64)
    which = PATTERN_NAMES.index(pattern)
    count = found.pieces(_at(table), len(table), which, data, len(data), _at(ends))
    starts = [0, *ends[:count].tolist()]
    return [data[a:b].decode() for a, b in pairwise(starts)]


class Encoder:
    """Text -> ids, faster than the library by an order of magnitude. Threads take turns."""

    def __init__(self, functions: ctypes.CDLL, content: Mapping[str, Any], cut: Cut) -> None:
        """`content` is a `tokenizer.json` with all 256 bytes in its vocabulary, which is cut by `cut`."""
        vocabulary: dict[str, int] = content["model"]["vocab"]
        self._functions, self._lock = functions, threading.Lock()
        table, merges = classes(), _merges(content, vocabulary)
        byte_ids = np.array(byte_ids_of(vocabulary), dtype=np.uint32)
        which = PATTERN_NAMES.index(cut.pattern)
        self._pointer = functions.encoder_new(
            _at(table), len(table), which, _at(byte_ids), _at(merges), len(merges)
        )
        weakref.finalize(self, functions.encoder_free, self._pointer)
        if cut.whole_first:
            known = [(found, number) for token, number in vocabulary.items() if (found := bytes_of(token))]
            spelling = b"".join(found for found, _ in known)
            ends = np.cumsum([len(found) for found, _ in known], dtype=np.int64)
            ids = np.array([number for _, number in known], dtype=np.uint32)
            functions.encoder_whole_first(self._pointer, spelling, _at(ends), _at(ids), len(ids))

    def encode(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """(ids of all texts, where each text's ids end). A lone surrogate is a UnicodeEncodeError."""
        data, ends = joined(texts)
        ids, id_ends = np.empty(len(data), dtype=np.uint32), np.empty(len(ends), dtype=np.int64)
        arguments = (data, _at(ends), len(ends), _at(ids), _at(id_ends))
        with self._lock:
            if self._functions.encoder_encode(self._pointer, *arguments):
                raise MemoryError(f"a text of {len(data):,} bytes has a piece that is too long to be merged")
        return ids[: int(id_ends[-1]) if len(id_ends) else 0], id_ends


def byte_ids_of(vocabulary: Mapping[str, int]) -> list[int]:
    """The id of each of the 256 bytes; KeyError where one is missing."""
    ids = {
        found[0]: number for token, number in vocabulary.items() if len(found := bytes_of(token) or b"") == 1
    }
    return [ids[byte] for byte in range(256)]


def _merges(content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> NDArray[np.uint32]:
    """(N, 3) left, right, result in order of rank."""
    rows: list[tuple[int, int, int]] = []
    for merge in content["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        rows.append((vocabulary[left], vocabulary[right], vocabulary[left + right]))
    return np.array(rows, dtype=np.uint32).reshape(-1, 3)


class Learner:
    """Counts the pieces of texts, then learns merges from them, as the library's `BpeTrainer` does."""

    def __init__(self, functions: ctypes.CDLL, pattern: PatternName, max_words: int) -> None:
        table = classes()
        self._functions = functions
        self._pointer = functions.learner_new(_at(table), len(table), PATTERN_NAMES.index(pattern), max_words)
        weakref.finalize(self, functions.learner_free, self._pointer)

    def add(self, texts: Sequence[str], times: int = 1) -> None:
        """Count the pieces of some texts, `times` over."""
        data, ends = joined(texts)
        self._functions.learner_add(self._pointer, data, _at(ends), len(ends), times)

    def learn(self, byte_ids: Sequence[int], first_new: int, num_new: int, least: int) -> NDArray[np.uint32]:
        """(N, 3) left, right, result of each merge, for at most `num_new` new ids from `first_new` on, from
        pairs that occur at least `least` times."""
        ids = np.array(byte_ids, dtype=np.uint32)
        count = self._functions.learner_learn(self._pointer, _at(ids), first_new, num_new, least)
        merges = np.empty((count, 3), dtype=np.uint32)
        self._functions.learner_merges(self._pointer, _at(merges))
        return merges

    @property
    def forgotten(self) -> int:
        """Pieces that occurred this often or less were forgotten to bound memory; 0 where none was."""
        return int(self._functions.learner_forgotten(self._pointer))


def _at(array: NDArray[Any]) -> int:
    assert array.flags.c_contiguous
    return array.ctypes.data

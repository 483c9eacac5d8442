"""Rows that repeat earlier ones: the same texts, the same prompt, or nearly the same.

Each row costs some 150 bytes of memory, whatever its length.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelwright.base.schema import Conversation, Message, Preference
from modelwright.data.dedup import cluster
from modelwright.data.dedup.exact import HASH_BYTES, first_places, text_hash
from modelwright.data.dedup.minhash import band_keys, signatures
from modelwright.data.dedup.settings import MinHash
from modelwright.data.split import position

_BATCH = 512
AS_LETTERS = str.maketrans("0123456789", "abcdefghij")
"""Digits as letters, for comparisons that take no notice of digits: sums on other numbers are other rows."""


class Firsts(NamedTuple):
    """For each row, the place of the first one that it repeats; its own where there is none."""

    whole: NDArray[np.int64]
    """The same texts, but for white space."""
    prompt: NDArray[np.int64]
    """The same turns before the last answer."""
    near: NDArray[np.int64]
    """Nearly the same texts: some three quarters of their runs of five words (`dedup.minhash`), in which case
    and punctuation do not count, but digits do: sums on other numbers are other rows."""


def told(messages: tuple[Message, ...]) -> str:
    """What turns say, as one text."""
    return "\n".join(
        f"{message.role}: {message.content}{''.join(f' {c.name} {c.arguments}' for c in message.tool_calls)}"
        for message in messages
    )


def prompt_of(example: Conversation | Preference) -> tuple[Message, ...]:
    """The turns before the last answer."""
    if isinstance(example, Preference):
        return example.prompt
    ends = example.messages[-1].role == "assistant"
    return example.messages[:-1] if ends else example.messages


def text_of(example: Conversation | Preference) -> str:
    """All that is said."""
    if isinstance(example, Preference):
        return f"{told(example.prompt)}\n{example.chosen}\n{example.rejected}"
    return told(example.messages)


class Repeats:
    """Collects rows, and tells in the end which repeat which."""

    def __init__(self, near: bool = True) -> None:
        """`near`: whether rows that are nearly the same are looked for, at a cost."""
        self._config, self._looks_near = MinHash(), near
        self._hashes = {"whole": bytearray(), "prompt": bytearray()}
        self._keys: list[NDArray[np.uint64]] = []
        self._waiting: list[str] = []

    def add(self, example: Conversation | Preference) -> None:
        """The next row."""
        text = text_of(example)
        for name, part in (("whole", text), ("prompt", told(prompt_of(example)))):
            self._hashes[name] += text_hash(" ".join(part.split()))
        if self._looks_near:
            self._waiting.append(text.translate(AS_LETTERS))
            if len(self._waiting) >= _BATCH:
                self._sign()

    def firsts(self) -> Firsts:
        """Of all rows so far."""
        whole, prompt = (next(first_places([self._array(name)])) for name in ("whole", "prompt"))
        return Firsts(whole, prompt, self._near() if self._looks_near else np.arange(len(whole)))

    def _array(self, name: str) -> NDArray[np.uint8]:
        return np.frombuffer(self._hashes[name], np.uint8).reshape(-1, HASH_BYTES)

    def _sign(self) -> None:
        self._keys.append(band_keys(signatures(self._waiting, self._config), self._config))
        self._waiting = []

    def _near(self) -> NDArray[np.int64]:
        if self._waiting:
            self._sign()
        with tempfile.TemporaryDirectory() as folder:
            return np.array(cluster.cluster(self._keys, cluster.Config(), Path(folder)).parent)


def groups(firsts: Firsts, openings: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each row, the first of the rows that must stay together: those that are nearly the same, and those
    of one opening question (`openings`, in the form of `Firsts`)."""
    parent = np.arange(len(openings))

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = parent[parent[place]]
            place = int(parent[place])
        return place

    for links in (firsts.whole, firsts.near, openings):
        for place in np.flatnonzero(links != np.arange(len(links))).tolist():
            one, other = sorted((root(place), root(int(links[place]))))
            parent[other] = one
    return np.array([root(place) for place in range(len(parent))], np.int64)


def held_out(
    group: NDArray[np.int64], keys: Sequence[bytes], fraction: float, seed: int
) -> NDArray[np.bool_]:
    """For each row, whether it is held out: groups as a whole, by the smallest of their rows' keys, so that
    the order of the rows changes nothing."""
    smallest: dict[int, bytes] = {}
    for number, key in zip(group.tolist(), keys, strict=True):
        smallest[number] = min(smallest.get(number, key), key)
    chosen = {
        number: position(key.hex(), f"dataset\x1f{seed}") < fraction for number, key in smallest.items()
    }
    return np.array([chosen[number] for number in group.tolist()], bool)

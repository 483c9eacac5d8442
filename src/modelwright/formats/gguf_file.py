"""GGUF files as they lie on the disk, read with care.

The reader of the `gguf` package believes what a file says of its own sizes, and runs without end where a
count is absurd. Here every size is held against the bytes there are before anything is made of it. Weights
are dequantized by the package.

A file is: the letters GGUF, version, how many tensors and settings; the settings; each tensor's name, sides,
type and place; then the tensors (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants
from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a setting -> letter of `struct`. Files are little-endian; those of version 3 may be big-endian."""
_TEXT, _ARRAY = 8, 9
_MAX_TEXT, _MAX_ITEMS, _MAX_SIDES = 1 << 24, 1 << 22, 4
"""Bytes of a text, items of an array, sides of a tensor. The largest vocabularies have 2^18 tokens, and twice
as many merges."""
_WHOLE = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}
_INTEGERS = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}
"""Types that no weight of a model has."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies, and how."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    """As torch has it: rows first."""
    start: int
    """Bytes from the beginning of the file."""
    size: int
    """Bytes."""


class GGUFFile:
    """The settings of a file, and its tensors when they are asked for."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            with open(self.path, "rb") as file:
                self._content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: an empty file
            raise DamagedFile(f"{path} cannot be read as a GGUF file: {error}") from error
        try:
            self.settings, self.tensors = _Header(self._content).read()
        except (_Broken, struct.error, UnicodeDecodeError) as error:
            raise DamagedFile(
                f"{path} is truncated or no GGUF file: {error}. Copy or download it again."
            ) from error

    def setting(self, name: str, kind: type, default: Any = None) -> Any:
        """A setting of an expected kind (int, float, str, bool, list); without a default it must be there."""
        if name not in self.settings and default is not None:
            return default
        value = self.settings.get(name)
        accepted = int | float if kind is float else kind
        if isinstance(value, accepted) and (kind is bool or not isinstance(value, bool)):
            return value
        said = "nothing" if value is None else f"{value!r:.80}"
        raise DamagedFile(f"{self.path} says {said} of {name}: expected {kind.__name__}")

    def tensor(self, name: str, dtype: torch.dtype) -> Tensor:
        """A tensor of the file, dequantized."""
        stored = self.tensors[name]
        content = np.frombuffer(self._content, np.uint8, stored.size, stored.start)
        if whole := _WHOLE.get(stored.kind):
            bits = torch.from_numpy(content.copy()).view(whole)
            return bits.view(stored.shape).to(dtype)
        if stored.kind.name in _INTEGERS:
            raise UserError(f"{self.path}: {name} is stored as {stored.kind.name}, which weights are not")
        try:
            values = quants.dequantize(content.reshape(*stored.shape[:-1], -1), stored.kind)
        except NotImplementedError as error:
            raise UserError(f"{self.path}: {name} is stored as {stored.kind.name}: {error}") from error
        return torch.from_numpy(values).view(stored.shape).to(dtype)


class _Broken(ValueError):
    """What is wrong with a header."""


class _Header:
    """Reads what stands before the tensors, from the front to the back."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._place = content, 0

    def read(self) -> tuple[Mapping[str, Any], Mapping[str, Stored]]:
        """(settings, tensors)."""
        if bytes(self._take(4)) != _MAGIC:
            raise _Broken("it does not begin with the letters GGUF")
        if (version := self._number("I")) not in _VERSIONS:
            raise _Broken(f"it is of version {version}, expected {_VERSIONS} (little-endian)")
        tensors, settings = self._number("Q"), self._number("Q")
        said: dict[str, Any] = {}
        for _ in range(settings):
            name = self._text()
            if name in said:
                raise _Broken(f"the setting {name} stands twice")
            said[name] = self._value(self._number("I"))
        found: dict[str, tuple[GGMLQuantizationType, tuple[int, ...], int]] = {}
        for _ in range(tensors):
            name = self._text()
            if name in found:
                raise _Broken(f"the tensor {name} stands twice")
            found[name] = self._tensor()
        return said, self._placed(found, said.get("general.alignment", 32))

    def _placed(
        self, found: Mapping[str, tuple[GGMLQuantizationType, tuple[int, ...], int]], alignment: Any
    ) -> dict[str, Stored]:
        """The tensors with their places, all of which lie within the file."""
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 16:
            raise _Broken(f"general.alignment is {alignment!r:.80}")
        first = -(-self._place // alignment) * alignment
        placed: dict[str, Stored] = {}
        for name, (kind, shape, offset) in found.items():
            in_block, block_bytes = GGML_QUANT_SIZES[kind]
            if shape[-1] % in_block:
                raise _Broken(f"rows of {name} have {shape[-1]} numbers, in {kind.name} blocks of {in_block}")
            size = math.prod(shape) // in_block * block_bytes
            if first + offset + size > len(self._content):
                raise _Broken(f"{name} ends at byte {first + offset + size:,} of {len(self._content):,}")
            placed[name] = Stored(kind, shape, first + offset, size)
        return placed

    def _tensor(self) -> tuple[GGMLQuantizationType, tuple[int, ...], int]:
        count = self._number("I")
        if not 0 < count <= _MAX_SIDES:
            raise _Broken(f"a tensor has {count} sides")
        shape = tuple(self._number("Q") for _ in range(count))[::-1]
        if not all(shape):
            raise _Broken(f"a tensor has the sides {shape}")
        kind = self._number("I")
        if kind not in {known.value for known in GGMLQuantizationType}:
            raise _Broken(f"a tensor is of type {kind}, which is not known")
        return GGMLQuantizationType(kind), shape, self._number("Q")

    def _value(self, kind: int) -> Any:
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind == _TEXT:
            return self._text()
        if kind != _ARRAY:
            raise _Broken(f"a setting is of type {kind}, which is not known")
        inner, count = self._number("I"), self._number("Q")
        if count > _MAX_ITEMS or inner not in (*_NUMBERS, _TEXT):
            raise _Broken(f"an array has {count:,} items of type {inner}")
        if inner == _TEXT:
            return [self._text() for _ in range(count)]
        letter = _NUMBERS[inner]
        return list(struct.unpack(f"<{count}{letter}", self._take(count * struct.calcsize(f"<{letter}"))))

    def _number(self, letter: str) -> Any:
        return struct.unpack(f"<{letter}", self._take(struct.calcsize(f"<{letter}")))[0]

    def _text(self) -> str:
        size = self._number("Q")
        if size > _MAX_TEXT:
            raise _Broken(f"a text has {size:,} bytes")
        return bytes(self._take(size)).decode()

    def _take(self, size: int) -> memoryview:
        end = self._place + size
        if end > len(self._content):
            raise _Broken(f"it ends at byte {len(self._content):,}, where more was announced")
        piece = self._content[self._place : end]
        self._place = end
        return piece

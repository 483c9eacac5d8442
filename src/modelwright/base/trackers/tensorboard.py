"""TensorBoard's event files, written without TensorBoard: `tensorboard --logdir RUN` reads them.

A file is a row of records: length, its checksum, bytes, their checksum (TensorFlow's TFRecord format). The
bytes are a protocol buffer `Event` (tensorflow/core/util/event.proto), of which four kinds are needed.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from modelwright.base.trackers import Place

FOLDER = "tensorboard"
START = 1
"""SessionLog.START: what stands at its step or later, from an earlier session, is obsolete."""


def open_tracker(place: Place) -> EventFile:
    """A new file beside those of earlier sessions."""
    return EventFile(place.folder / FOLDER, place.after_step)


class EventFile:
    """One session's values."""

    takes_back = True

    def __init__(self, folder: Path, after_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = 0
        begin = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}"
        while (path := folder / f"{begin}.{number}").exists():
            number += 1
        self._file = open(path, "xb", buffering=0)
        self._write(_text(3, "brain.Event:2"), 0)
        if after_step:
            self._write(_message(7, _integer(1, START)), after_step + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One event with all values of a step."""
        summary = b"".join(
            _message(1, _text(1, name) + _tag(2, 5) + struct.pack("<f", _in_range(value)))
            for name, value in values.items()
        )
        self._write(_message(5, summary), step)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, content: bytes, step: int) -> None:
        event = _tag(1, 1) + struct.pack("<d", time.time()) + _integer(2, step) + content
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked(length) + event + _masked(event))


def _in_range(value: float) -> float:
    """Numbers beyond fp32 become its largest: packing them would be an error."""
    return max(-3.4028234e38, min(3.4028234e38, value))


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


def _tag(field: int, kind: int) -> bytes:
    return _varint(field << 3 | kind)


def _integer(field: int, value: int) -> bytes:
    return _tag(field, 0) + _varint(value)


def _message(field: int, content: bytes) -> bytes:
    return _tag(field, 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode("utf-8"))


def _table() -> list[int]:
    table: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()
"""CRC-32C (Castagnoli), a byte at a time: some hundred bytes a step."""


def crc32c(content: bytes) -> int:
    """The checksum of RFC 3720."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _CRC[(crc ^ byte) & 255] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _masked(content: bytes) -> bytes:
    """A checksum as it is stored: rotated, so that a checksum of checksums is no fixed point."""
    crc = crc32c(content)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

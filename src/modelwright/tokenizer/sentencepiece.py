"""SentencePiece's `.model` files as a tokenizer of the `tokenizers` library (Kudo & Richardson 2018,
arXiv 1808.06226). The file is a protocol buffer; the few fields that matter are read here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers

from modelwright.base.errors import DamagedFile, UserError

_UNIGRAM, _BPE = 1, 2
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_SPACE = "\u2581"

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry of the vocabulary; its place is its id."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True, slots=True)
class Model:
    """What a `.model` file says."""

    pieces: tuple[Piece, ...]
    algorithm: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    squeeze: bool
    """Whether spaces at the ends go, and runs of them become one."""
    suffix: bool
    """Whether the mark of a space stands behind a word."""


def from_sentencepiece(file: Path) -> Tokenizer:
    """A `.model` file of the kinds BPE and Unigram, with its normalisation.

    Two things can differ. What NFKC makes of several accents on one letter: one line in 30,000 of the
    Universal Declaration in 439 languages. And Unigram, in the library, takes a control piece that stands in
    a text, such as `</s>`, for the piece; the tokens of the chat template are safe from that."""
    try:
        model = _parse(file.read_bytes())
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as error:
        raise DamagedFile(f"{file} is no SentencePiece model: {error}. Copy it again.") from error
    return from_model(model, file)


def from_model(model: Model, file: Path) -> Tokenizer:
    """What a `.model` file says, or what a GGUF file repeats of it. `file` is for messages."""
    if model.algorithm not in (_UNIGRAM, _BPE) or model.suffix:
        raise UserError(
            f"{file}: only SentencePiece models of the kinds BPE and Unigram can be taken over, with the"
            " space before the word. This one is of another kind; convert it with its own tools."
        )
    if users := [piece.text for piece in model.pieces if piece.kind == _USER]:
        raise UserError(
            f"{file} has {len(users)} symbols of its user's ({users[0]!r}), next to which spaces cannot be"
            " treated the same elsewhere. Take the tokenizer.json that its makers publish."
        )
    backend = Tokenizer(_bpe(model) if model.algorithm == _BPE else _unigram(model))
    backend.normalizer = _normalizer(model)
    space = decoders.Replace(_SPACE, " ")
    strip = [decoders.Strip(" ", 1, 0)] if model.dummy_prefix else []
    backend.decoder = decoders.Sequence([space, decoders.ByteFallback(), decoders.Fuse(), *strip])
    for piece in model.pieces:
        if piece.kind == _CONTROL:
            token = AddedToken(piece.text, normalized=False, special=True)
            backend.add_tokens([token])  # pyright: ignore[reportUnknownMemberType]
    return backend


def _bpe(model: Model) -> models.BPE:
    """Neighbours that make a piece are merged, best score first: a merge for every way to halve a piece."""
    vocabulary = {piece.text: number for number, piece in enumerate(model.pieces)}
    usable = {piece.text: piece.score for piece in model.pieces if piece.kind in (_NORMAL, _UNUSED)}
    merges: list[tuple[str, str]] = []
    for text, _ in sorted(usable.items(), key=lambda item: (-item[1], vocabulary[item[0]])):
        halves = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        both = [(a, b) for a, b in halves if a in usable and b in usable]
        merges += sorted(both, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    unknown = next((piece.text for piece in model.pieces if piece.kind == _UNKNOWN), None)
    return models.BPE(
        vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=model.byte_fallback
    )


def _unigram(model: Model) -> models.Unigram:
    unknown = next((n for n, piece in enumerate(model.pieces) if piece.kind == _UNKNOWN), None)
    vocabulary = [(piece.text, piece.score) for piece in model.pieces]
    return models.Unigram(vocabulary, unknown, model.byte_fallback)


def _normalizer(model: Model) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.squeeze:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(_SPACE))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])


def _parse(content: bytes) -> Model:
    """The fields of `sentencepiece_model.proto`, by their numbers there."""
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            (score,) = struct.unpack("<f", _bytes(piece.get(2, b"\0\0\0\0")))
            pieces.append(Piece(_bytes(piece[1]).decode(), score, int(_int(piece.get(3, _NORMAL)))))
        elif number == 2 and isinstance(value, bytes):
            trainer = dict(_fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer = dict(_fields(value))
    if not pieces:
        raise ValueError("it has no vocabulary")
    return Model(
        pieces=tuple(pieces),
        algorithm=_int(trainer.get(3, _UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=_bytes(normalizer.get(2, b"")),
        dummy_prefix=bool(normalizer.get(3, 1)),
        squeeze=bool(normalizer.get(4, 1)),
        suffix=bool(trainer.get(24, 0)),
    )


def _fields(content: bytes) -> Iterator[tuple[int, Value]]:
    """(number, value) of each field of a message; fixed-width values as bytes. ValueError where cut short."""
    place = 0
    while place < len(content):
        tag, place = _varint(content, place)
        kind = tag & 7
        if kind == 0:
            value, place = _varint(content, place)
            yield tag >> 3, value
            continue
        size = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            size, place = _varint(content, place)
        if size is None or place + size > len(content):
            raise ValueError(f"byte {place}: the field does not end within the file")
        yield tag >> 3, content[place : place + size]
        place += size


def _varint(content: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = content[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError(f"byte {place}: a number without end")


def _int(value: Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a number was expected")
    return value


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("text was expected")
    return value

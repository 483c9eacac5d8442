"""Streams of tokens as text: never half a character, never half a stop string."""

from __future__ import annotations

import random

import pytest

from modelwright.inference.text import TextStream, text_of


class Bytes:
    """A tokenizer whose tokens are single bytes: every character beyond ASCII is cut."""

    special_ids = {"<|im_end|>": 256}
    vocab_size = 257

    def token_bytes(self, token):
        return bytes([token])

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def pieces_of(ids, stop=()):
    stream = TextStream(Bytes(), stop)
    pieces = [stream.push(token) for token in ids]
    return [*pieces, stream.end()], stream


@pytest.mark.parametrize("text", ["plain", "Zürich, 東京, 🦆 and e\u0301", "", "\x00\n\t"])
def test_pieces_are_whole_characters(text):
    pieces, _ = pieces_of(text.encode())
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_bytes_that_are_no_text_become_replacement_characters():
    ids = [0x41, 0xE6, 0x9D, 0x42, 0xFF, 0xE6, 0x9D]
    pieces, _ = pieces_of(ids)
    assert "".join(pieces) == bytes(ids).decode(errors="replace")


def test_special_and_unknown_tokens_have_no_text():
    assert text_of(Bytes(), [65, 256, 66, 300]) == "AB"


def test_stop_strings_cut_and_nothing_of_them_is_released():
    pieces, stream = pieces_of(b"one END two", ("END",))
    assert "".join(pieces) == "one " and stream.stopped


def test_the_start_of_a_stop_string_waits_and_is_released():
    stream = TextStream(Bytes(), ("</s>", "\n\n"))
    assert [stream.push(token) for token in b"a</x\n."] == ["a", "", "", "</x", "", "\n."]
    assert stream.push(ord("<")) == "" and stream.end() == "<" and not stream.stopped


def test_random_streams_equal_the_whole_cut_at_once():
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(draw.choice("abé") for _ in range(30))
        stops = tuple("".join(draw.choice("abé") for _ in range(draw.randint(1, 5))) for _ in range(2))
        pieces, _ = pieces_of(text.encode(), stops)
        ends = [text.find(stop) for stop in stops if stop in text]
        # The stop string that is complete first ends the text.
        first = min((text.find(s) + len(s) for s in stops if s in text), default=len(text))
        expected = text[: min(text[:first].find(s) for s in stops if s in text[:first])] if ends else text
        assert "".join(pieces) == expected

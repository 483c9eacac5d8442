from __future__ import annotations

import unicodedata

import pytest

from modelwright.data.words import kinds


def test_the_table_says_what_python_says() -> None:
    of = kinds.table()
    for code in [*range(0x3100), *range(0xA000, 0x20000, 7), *range(0x20000, 0x110000, 997)]:
        character = chr(code)
        if code >= 0x20000 and unicodedata.category(character) == "Cn":
            continue  # not yet assigned: Chinese characters to come
        assert bool(of[code] & kinds.SPACE) == character.isspace(), hex(code)
        assert bool(of[code] & kinds.ALPHABETIC) == character.isalpha(), hex(code)
        assert bool(of[code] & kinds.DECIMAL) == character.isdecimal(), hex(code)
        assert bool(of[code] & kinds.PUNCTUATION) == unicodedata.category(character).startswith("P"), hex(
            code
        )
        assert bool(of[code] & (kinds.ALPHABETIC | kinds.NUMBER)) == character.isalnum(), hex(code)


def test_bits_are_apart_and_fit() -> None:
    assert sorted(kinds.BITS.values()) == [1 << place for place in range(16)]


def test_letters_that_are_words() -> None:
    unspaced = kinds.characters(kinds.UNSPACED)
    assert set("中ひカไខမག") <= unspaced
    assert not unspaced & set("aéж한א1。")


@pytest.mark.filterwarnings("ignore")
def test_marks_that_end_sentences_and_symbols_are_datatroves() -> None:
    text = pytest.importorskip("datatrove.utils.text", reason="datatrove is not installed")
    assert kinds.characters(kinds.TERMINAL) == text.TERMINAL_PUNCTUATION
    assert kinds.characters(kinds.SYMBOL) == text.PUNCTUATION_SET


@pytest.mark.filterwarnings("ignore")
def test_marks_that_are_split_off_are_spacys() -> None:
    classes = pytest.importorskip("spacy.lang.char_classes", reason="spaCy is not installed")
    single = {mark.lstrip("\\") for mark in (*classes.LIST_PUNCT, *classes.LIST_QUOTES) if mark}
    icons = kinds.characters(kinds.ICON)
    assert kinds.characters(kinds.SUFFIX) - icons == {mark for mark in single if len(mark) == 1} | set("—–")
    assert kinds.characters(kinds.QUOTE) == {mark.lstrip("\\") for mark in classes.LIST_QUOTES if mark}
    currency = {mark.lstrip("\\") for mark in classes.LIST_CURRENCY if len(mark.lstrip("\\")) == 1}
    assert currency <= set(kinds.CURRENCY) <= kinds.characters(kinds.PREFIX)

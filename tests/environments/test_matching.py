from __future__ import annotations

import pytest

from modelwright.environments.matching import contains, holds_symbol, normalise, starts_with


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The capital of France is Paris.", "Paris"),
        ("PARIS!", "Paris"),
        ("France's capital, Paris, is old", "Paris"),
        ("Paris's mayor", "Paris"),
        ("It is Bogota.", "Bogotá"),
        ("It is Bogotá, D.C.", "Bogota"),
        ("The capital is N’Djamena.", "N'Djamena"),
        ("Nukuʻalofa", "Nuku'alofa"),
        ("porto novo", "Porto-Novo"),
        ("Ulan\u00a0Bator\x00", "Ulan Bator"),
        ("Tromso", "Tromsø"),
        ("Столица Франции - Париж.", "Париж"),
        ("Η πρωτεύουσα είναι η Αθηνα.", "Αθήνα"),
        ("フランスの首都はパリです。", "パリ"),
        ("法国的首都是巴黎。", "巴黎"),
        ("عاصمة فرنسا هي باريس.", "باريس"),
        ("프랑스의 수도는 파리입니다", "파리"),
        ("ｐａｒｉｓ", "Paris"),
    ],
)
def test_contains(text: str, answer: str) -> None:
    assert contains(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Parisian life", "Paris"),
        ("Comparison", "Paris"),
        ("", "Paris"),
        ("Paris", ""),
        ("Paris", "!?"),
        ("Niger", "Nigeria"),
        ("Nigeria", "Niger"),
        ("New, and then Delhi", "New Delhi"),
        ("東京", "京都"),
        ("x" * 9_000 + " Paris", "Paris"),
    ],
)
def test_does_not_contain(text: str, answer: str) -> None:
    assert not contains(text, answer)


@pytest.mark.parametrize(
    ("text", "symbol", "held"),
    [
        ("The symbol of helium is He.", "He", True),
        ("He", "He", True),
        ("'In'", "In", True),
        ("Its symbol is I, as in ink.", "I", True),
        ("I do not know.", "I", False),
        ("No, I do not know.", "No", False),
        ("No, I do not know.", "I", False),
        ("He is a gas.", "He", False),
        ("the symbol is he.", "He", False),
        ("The symbol is Hey.", "He", False),
    ],
)
def test_symbols_are_not_everyday_words(text: str, symbol: str, held: bool) -> None:
    assert holds_symbol(text, symbol) is held
    assert contains(text, symbol) is held


def test_starts_with_whole_words() -> None:
    assert starts_with(" Paris. It is", "Paris")
    assert starts_with("São Tomé, on the island", "Sao Tome")
    assert starts_with(" H.", "H")
    assert not starts_with(" Parisian", "Paris")
    assert not starts_with(" the city of Paris", "Paris")
    assert not starts_with(" Helium", "H")


def test_normalise_is_idempotent_and_bounded() -> None:
    for text in ("Ÿ\u0301ß ﬃ 서울 ไทย हिन्दी", "a" * 100_000, "\u0301" * 5_000, "\ud800 lone"):
        once = normalise(text)
        assert normalise(once) == once[:8_000] or len(once) > 8_000
        assert len(once) <= 8_000 * 18

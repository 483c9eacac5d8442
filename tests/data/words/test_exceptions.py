from __future__ import annotations

import pytest

from modelwright.data.words.exceptions import LONGEST, exceptions


@pytest.mark.parametrize(
    ("chunk", "pieces"),
    [
        ("don't", ("do", "n't")),
        ("Don’t", ("Do", "n’t")),
        ("dont", ("do", "nt")),
        ("I'd've", ("I", "'d", "'ve")),
        ("10a.m.", ("10", "a.m.")),
        ("Mr.", ("Mr.",)),
        ("cannot", ("can", "not")),
        (":-(", (":-(",)),
    ],
)
def test_english(chunk: str, pieces: tuple[str, ...]) -> None:
    assert exceptions("en")[chunk] == pieces


def test_pieces_join_to_the_chunk() -> None:
    for language in ("en", "zh"):
        assert all("".join(pieces) == chunk for chunk, pieces in exceptions(language).items())


def test_none_is_longer_than_is_said() -> None:
    assert max(map(len, exceptions("en"))) <= LONGEST


def test_words_that_only_look_like_contractions_stay() -> None:
    assert not {"well", "were", "its", "ill", "hell", "shed"} & exceptions("en").keys()
    assert "don't" not in exceptions("de")


@pytest.mark.filterwarnings("ignore")
def test_the_lists_are_spacys() -> None:
    pytest.importorskip("spacy", reason="spaCy is not installed")
    from spacy.lang.en.tokenizer_exceptions import TOKENIZER_EXCEPTIONS
    from spacy.lang.tokenizer_exceptions import BASE_EXCEPTIONS
    from spacy.symbols import ORTH

    for language, rules in (("en", TOKENIZER_EXCEPTIONS), ("xx", BASE_EXCEPTIONS)):
        theirs = {
            chunk: tuple(piece[ORTH] for piece in rule) for chunk, rule in rules.items() if chunk.strip()
        }
        assert exceptions(language) == theirs

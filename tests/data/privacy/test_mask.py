from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.errors import ConfigError
from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.data import filters
from modelwright.data.privacy.find import find
from modelwright.data.privacy.finding import KINDS
from modelwright.data.privacy.mask import mask

TEXT = "Ann (ann@mail.org, +44 20 7946 0958) from 8.8.8.8 paid ann@mail.org by DE89 3704 0044 0532 0130 00."


def test_styles() -> None:
    tagged, counts = mask(TEXT)
    assert tagged == "Ann (<EMAIL>, <PHONE>) from <IP> paid <EMAIL> by <IBAN>."
    assert counts == {"email": 2, "phone": 1, "ip": 1, "iban": 1}
    fixed, _ = mask(TEXT, style="fixed")
    assert (
        fixed == "Ann (email@example.com, +1 202 555 0100) from 192.0.2.1 paid email@example.com by <IBAN>."
    )


def test_pseudonyms_are_the_same_for_the_same_salt() -> None:
    masked, _ = mask(TEXT, style="pseudonym", salt="s")
    assert masked == mask(TEXT, style="pseudonym", salt="s")[0] != mask(TEXT, style="pseudonym", salt="t")[0]
    first, second = (part for part in masked.replace("(", " ").replace(",", " ").split() if "@" in part)
    assert first == second and first.endswith("@example.com")
    with pytest.raises(ConfigError, match="salt"):
        mask(TEXT, style="pseudonym")


PIECES = [
    "ann@mail.org",
    "@",
    "8.8.8.8",
    ".",
    "+44 20 7946 0958",
    "4111 1111 1111 1111",
    "0",
    " ",
    "password=",
    "a8Fk2Lm9Qz4Xw7Rt",
    "-",
    ":",
    "<",
    "//u:",
    "x",
    "2001:4860:4860::8888",
    "DE89370400440532013000",
]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.sampled_from(["tag", "fixed", "pseudonym"])
)
def test_masking_twice_changes_nothing(text: str, style) -> None:
    masked, counts = mask(text, KINDS, style, "salt")
    assert mask(masked, KINDS, style, "salt") == (masked, {})
    assert find(masked, KINDS) == []
    assert bool(counts) == (masked != text)


def test_a_stand_in_that_is_taken_for_a_number_gives_way_to_a_tag() -> None:
    text = "8.8.8.8a8Fk2Lm9Qz4Xw7RtDE89370400440532013000@+44 20 7946 0958"  # found by hypothesis
    masked, _ = mask(text, KINDS, "fixed")
    assert "7946" not in masked and mask(masked, KINDS, "fixed") == (masked, {})


def document(text: str) -> Document:
    return Document(text=text, id=sha256_text(text), source="a", meta={"page": 1})


def run(settings: dict[str, object], *texts: str) -> tuple[list[Document], list[Reason]]:
    _, step = filters.build({"name": "privacy", **settings})
    reasons: list[Reason] = []
    return list(step(map(document, texts), lambda _, reason: reasons.append(reason))), reasons


def test_the_filter_masks_and_counts() -> None:
    (clean, masked), reasons = run({}, "Nothing here.", TEXT)
    assert clean.text == "Nothing here." and clean.meta == {"page": 1, "masked": {}} and reasons == []
    counts = {"email": 2, "iban": 1, "ip": 1, "phone": 1}
    assert masked.meta == {"page": 1, "masked": counts, "former_ids": [sha256_text(TEXT)]}
    assert masked.id == sha256_text(masked.text) and "ann@" not in masked.text


def test_the_filter_marks_or_drops() -> None:
    (marked,), _ = run({"action": "mark", "kinds": ["email"]}, TEXT)
    assert (
        marked.text == TEXT and marked.personal_data is True and marked.meta["personal_data"] == {"email": 2}
    )
    kept, (reason,) = run({"max_findings": 4}, TEXT, "ann@mail.org")
    assert [each.text for each in kept] == ["<EMAIL>"]
    assert (reason.rule, reason.value) == ("much personal data", 5)
    with pytest.raises(ConfigError, match="salt"):
        run({"style": "pseudonym"})

from __future__ import annotations

import random

import pytest

from modelwright.data.words.urls import is_url


def whole(text: str) -> bool:
    return is_url(text, 0, len(text))


@pytest.mark.parametrize(
    "text",
    [
        *("http://www.example.com", "example.org", "www.example.com:8080/a?b=c#d", "ftp://a_b.example.net/x"),
        *("me@example.org", "mailto:me@example.org", "user:pass@example.com/x", "8.8.8.8", "8.8.8.8:53/x"),
        *("http://8.8.8.8", "a@b@example.com", "münchen.de", "a.b.c.d.ef", "x" * 64 + ".com", "example.com?"),
    ],
)
def test_urls(text: str) -> None:
    assert whole(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            ".",
            "word",
            "U.S.",
            "e.g",
            "end.Next",
            "http://",
            "example.c",
            "-a.com",
            "a-.com",
            "@example.com.",
        ),
        *(
            "10.0.0.1",
            "127.0.0.1",
            "192.168.1.1",
            "172.16.0.1",
            "169.254.1.1",
            "256.1.1.1",
            "224.1.1.1",
            "1.2.3",
        ),
        *(
            "1.2.3.4.5",
            "01.2.3.4",
            "example.com:1",
            "example.com:123456",
            "example.com:80x",
            "x" * 65 + ".com",
        ),
        *("a..com", "example.COM", "8.8.8.0", "8.8.8.255", "1.2.3.x"),
    ],
)
def test_other_things(text: str) -> None:
    assert not whole(text)


@pytest.mark.filterwarnings("ignore")
def test_the_same_as_spacy() -> None:
    exceptions = pytest.importorskip("spacy.lang.tokenizer_exceptions", reason="spaCy is not installed")
    parts = (
        "http://",
        "a",
        "ab.c",
        "@",
        ":",
        "80",
        "/",
        ".",
        "co",
        "com",
        "1.2",
        "-",
        "_",
        "#",
        "é",
        "10.0.0",
        "9",
    )
    draw = random.Random(0)
    for _ in range(20_000):
        text = "".join(draw.choices(parts, k=draw.randint(1, 8)))
        assert whole(text) == bool(exceptions.URL_MATCH(text)), text


def test_no_text_makes_it_slow() -> None:
    for text in ("@" * 30_000, "a." * 15_000, "a@" * 15_000, "a.b@" * 10_000 + "!", "1.1.1." * 6_000):
        whole(text)

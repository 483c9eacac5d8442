"""Texts that are hard to cut into words, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

HARD = (
    *(
        "...",
        "Mr.",
        "can't",
        "don’t",
        "US$",
        "10km",
        "http://",
        "a.b.com",
        "'s",
        "--",
        "---",
        "——",
        "e.g.",
        ":)",
    ),
    *(
        ":-(",
        "5%",
        "°F",
        "i.e.",
        "10a.m.",
        "and/or",
        "……",
        "C++",
        "(^_^)",
        "m²",
        "@",
        "N.Y.",
        "\u2028",
        "\r\n",
        "  ",
    ),
    *(
        "the",
        "be",
        "to",
        "12",
        "3.5",
        "#",
        "…",
        "😀",
        "中文字",
        "ไทย",
        "é",
        "\u0301",
        "Z",
        "½",
        "\x00",
        "\ud800",
    ),
)
"""Pieces that some rule looks for."""

MARKS = "abzAZ09 .,'\"-—–…:;()[]/\\@#$%&*+=<>~_^!?\n\t’s°F中é😀"

texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet=MARKS, max_size=60),
    st.lists(st.sampled_from([*HARD, *MARKS, " ", " "]), max_size=30).map("".join),
)
"""Any text, text of marks, and text of pieces that rules look for; half a surrogate pair among them."""

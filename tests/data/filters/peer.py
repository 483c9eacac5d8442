"""Our filters and datatrove's side by side, and documents to try them on (for benchmarks/filters.py too)."""

from __future__ import annotations

import gzip
import json
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from modelwright.base.files import sha256_text
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Step
from modelwright.data.filters import build

RULES = {
    "gopher_quality": {
        "gopher_short_doc": "words",
        "gopher_long_doc": "words",
        "gopher_below_avg_threshold": "mean word length",
        "gopher_above_avg_threshold": "mean word length",
        "gopher_too_many_hashes": "hash signs per word",
        "gopher_too_many_ellipsis": "ellipses per word",
        "gopher_too_many_bullets": "bullet lines",
        "gopher_too_many_end_ellipsis": "lines ending in an ellipsis",
        "gopher_below_alpha_threshold": "words with a letter",
        "gopher_enough_stop_words": "stop words",
    },
    "gopher_repetition": {
        "empty": "empty text",
        "dup_para_frac": "duplicate paragraphs",
        "dup_para_char_frac": "duplicate paragraph characters",
        "dup_line_frac": "duplicate lines",
        "dup_line_char_frac": "duplicate line characters",
        **{f"top_{n}_gram": f"top {n}-gram characters" for n in (2, 3, 4)},
        **{f"duplicated_{n}_n_grams": f"repeated {n}-gram characters" for n in range(5, 11)},
    },
    "c4": {"lorem_ipsum": "lorem ipsum", "curly_bracket": "curly bracket", "too_few_sentences": "sentences"},
    "c4_paragraphs": {"< 3 paragraphs": "long paragraphs"},
    "fineweb": {
        "empty": "empty text",
        "line_punct_ratio": "punctuated lines",
        "short_line_ratio": "short lines",
        "char_dup_ratio": "duplicate line characters",
        "list_ratio": "line feeds per word",
    },
}
"""Filter -> datatrove's name of a reason -> ours, behind the filter's name."""

SETS = tuple(RULES)
"""The filters, each with the published defaults in both."""

Peer = Callable[[str], tuple[str | None, str | None]]


@dataclass(frozen=True, slots=True)
class Pair:
    """One rule, or one filter with all of its rules, in both."""

    name: str
    ours: Step
    peer: Peer
    filter: Any
    """datatrove's filter itself."""


def document(text: str) -> Document:
    return Document(text=text, id=sha256_text(text), source="test")


def verdict(step: Step, text: str) -> tuple[str | None, str | None]:
    """(text that was left, or None; the rule by which it went, or None)."""
    dropped: list[Reason] = []
    kept = list(step(iter([document(text)]), lambda _, reason: dropped.append(reason)))
    return (kept[0].text, None) if kept else (None, dropped[0].rule)


@cache
def pairs() -> tuple[Pair, ...]:
    """All filters as published, FineWeb's C4, and each rule alone."""
    made = [_pair(name, name, {}, {}) for name in SETS]
    made.append(_fineweb_c4())
    quality_off = ("min_doc_words", "max_doc_words", "min_avg_word_length", "max_avg_word_length")
    quality_off += ("max_symbol_word_ratio", "max_bullet_lines_ratio", "max_ellipsis_lines_ratio")
    quality_off += ("max_non_alpha_words_ratio", "min_stop_words")
    ours_off = ("min_words", "max_words", "min_mean_word_length", "max_mean_word_length", "max_symbol_ratio")
    ours_off += ("max_bullet_lines", "max_ellipsis_lines", "min_alphabetic_words", "min_stop_words")
    for mine, theirs in zip(ours_off, quality_off, strict=True):
        off = {name: None for name in ours_off if name != mine}
        made.append(
            _pair(
                f"gopher_quality.{mine}", "gopher_quality", off, dict.fromkeys(_without(quality_off, theirs))
            )
        )
    parts = {
        "max_duplicate_paragraphs": "dup_para_frac",
        "max_duplicate_paragraph_characters": "dup_para_char_frac",
        "max_duplicate_lines": "dup_line_frac",
        "max_duplicate_line_characters": "dup_line_char_frac",
    }
    no_runs = {"max_top_runs": [], "max_repeated_runs": []}
    none = {"top_n_grams": (), "dup_n_grams": ()}
    for mine, theirs in parts.items():
        off = dict.fromkeys(_without(tuple(parts), mine))
        their_off = dict.fromkeys(_without(tuple(parts.values()), theirs))
        made.append(_pair(f"gopher_repetition.{mine}", "gopher_repetition", off | no_runs, their_off | none))
    off, their_off = dict.fromkeys(parts), dict.fromkeys(parts.values())
    top = ((2, 0.2), (3, 0.18), (4, 0.16))
    again = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
    for run in top:
        mine, theirs = off | no_runs | {"max_top_runs": [run]}, their_off | none | {"top_n_grams": (run,)}
        made.append(_pair(f"gopher_repetition.top {run[0]}", "gopher_repetition", mine, theirs))
    for run in again:
        mine, theirs = (
            off | no_runs | {"max_repeated_runs": [run]},
            their_off | none | {"dup_n_grams": (run,)},
        )
        made.append(_pair(f"gopher_repetition.repeated {run[0]}", "gopher_repetition", mine, theirs))
    fine = {
        "min_punctuated_lines": ("line_punct_thr", -1.0),
        "max_short_lines": ("short_line_thr", 2.0),
        "max_duplicate_line_characters": ("char_duplicates_ratio", 2.0),
        "max_line_feeds": ("new_line_ratio", 1e9),
    }
    for mine in fine:
        others = _without(tuple(fine), mine)
        made.append(
            _pair(f"fineweb.{mine}", "fineweb", dict.fromkeys(others), dict(fine[other] for other in others))
        )
    return tuple(made)


def _fineweb_c4() -> Pair:
    made = _pair("c4", "c4", {"terminal_punctuation": False}, {"filter_no_terminal_punct": False})
    return Pair("c4 without terminal punctuation", made.ours, made.peer, made.filter)


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(each for each in names if each != name)


def _pair(name: str, filter_name: str, mine: dict[str, Any], theirs: dict[str, Any]) -> Pair:
    ours = build({"name": filter_name, **mine})[1]
    peer = datatrove_filter(filter_name, **theirs)
    return Pair(name, ours, _asking(peer, RULES[filter_name], filter_name), peer)


def datatrove_filter(name: str, **settings: Any) -> Any:
    """The filter of datatrove that ours of this name stands for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datatrove.pipeline import filters
        from datatrove.pipeline.filters import c4_filters

        kinds = {
            "gopher_quality": filters.GopherQualityFilter,
            "gopher_repetition": filters.GopherRepetitionFilter,
            "c4": filters.C4QualityFilter,
            "c4_paragraphs": c4_filters.C4ParagraphFilter,
            "fineweb": filters.FineWebQualityFilter,
        }
        return kinds[name](**settings)


def _asking(peer: Any, rules: dict[str, str], name: str) -> Peer:
    from datatrove.data import Document as PeerDocument

    def ask(text: str) -> tuple[str | None, str | None]:
        asked = PeerDocument(text=text, id="0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = peer.filter(asked)
        return (asked.text, None) if found is True else (None, f"{name}: {rules[found[1]]}")

    return ask


@cache
def foreign_to_spacy() -> frozenset[str]:
    """Characters that spaCy's lists take otherwise than Unicode's categories do: letters of scripts and marks
    that it does not list, symbols newer than its list, and sentence ends newer than its list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from spacy.lang import char_classes
        from spacy.pipeline import Sentencizer

    from modelwright.data.words import kinds

    alike = ((char_classes.ALPHA, kinds.LETTER), (char_classes.ALPHA_LOWER, kinds.LOWER))
    alike += ((char_classes.ALPHA_UPPER, kinds.UPPER), (char_classes.CONCAT_ICONS, kinds.ICON))
    found: set[str] = set()
    every = "".join(map(chr, range(0x32400)))
    for characters, bit in alike:
        found |= set(re.findall(f"[{characters}]", every)) ^ kinds.characters(bit)
    return frozenset(found | (set(Sentencizer.default_punct_chars) ^ kinds.characters(kinds.TERMINAL)))


def cause(text: str) -> str:
    """Why the two may differ on a text, as far as that can be told."""
    foreign = sorted(foreign_to_spacy().intersection(text))
    return "a character that spaCy does not list" if foreign else "unexplained"


def real_documents(shared: Path) -> Iterator[str]:
    """Novels in pieces, pages of SQLite's manual as text and as HTML, the Declaration of Human Rights in many
    languages, and the gospels."""
    for path in sorted((shared / "litbank_novels").glob("*.parquet")):
        for number, novel in enumerate(pq.read_table(path).column("text").to_pylist()):
            size = (800, 2000, 3400, 6000)[number % 4]
            yield from (novel[start : start + size] for start in range(0, len(novel), size))
    pages = [row["html"] for row in _rows(shared / "sqlite_docs_html" / "pages.jsonl.gz")]
    for page in pages:
        yield re.sub(r"<[^>]*>", " ", page)[:6000]
        yield re.sub(r"\s*<[^>]*>\s*", "\n", page)[:4000]
        yield page[:2000]
    for row in _rows(shared / "udhr" / "udhr_articles.jsonl.gz"):
        yield "\n".join(value if isinstance(value, str) else str(value) for value in row.values())[:3000]
    verses = [row["eng"] for row in _rows(shared / "gospels" / "gospels.jsonl.gz")]
    yield from ("\n".join(verses[start : start + 25]) for start in range(0, len(verses), 25))


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


_PROSE = """
It was the best of times, and nobody had thought of the weather. She didn't believe that he'd go with them.
"You can't be serious," said Mr. Smith; he wasn't. We'll meet at 10am, or at 5 p.m., on the 3rd of Jan. 2024.
The U.S. economy grew 3.5% (see fig. 2) -- or so they say... Dr. Jones-Miller's well-known book costs $19.99!
To have and to be: that is the question. They're the ones I’d rather not’ve met; it’s what it’s, isn’t it?
The quick brown fox jumps over the lazy dog, e.g. near St. Paul's, and/or runs 10km at -5°C with 20 others.
""".replace("\n", " ").split(". ")

_LINES = (
    *(
        "Home",
        "About us",
        "Log in",
        "Contact",
        "Next »",
        "Read more...",
        "Share this…",
        "1,234 views",
        "» » »",
    ),
    *(
        "• a first item",
        "- a second item",
        "* a third",
        "3 likes",
        "Sign-in here",
        "FREE SHIPPING TODAY",
        "12345",
    ),
    *("http://www.example.com/a?b=c#d", "mail me@example.org.", "192.0.2.17:8080/x", "ftp://a_b.example.net"),
    *(
        "if (a == b) { return c[0]; }",
        "def f(x): return x**2",
        "{% include 'nav.html' %}",
        "<br/> &nbsp; </div>",
    ),
    *("Please enable Javascript to read this page.", "This site uses cookies, see our privacy policy."),
    *(
        "Lorem ipsum dolor sit amet, consectetur.",
        "Read the terms of use before you go on.",
        "Paris[1] is[edit] big.",
    ),
    *(
        "#tag #another #third",
        "########",
        "....",
        "… … …",
        "?!?!",
        "—",
        ":) :-( ;D <3",
        "😀 👍🏽 🎉 ok",
        "★★★★☆",
    ),
    *("東京は日本の首都です。人口は多い。", "Привет, мир! Как дела?", "مرحبا بالعالم؟", "¿Qué tal? ¡Bien!"),
    *(
        "1\t2\t3\t4.5\t6,7",
        "| a | b | c |",
        "2+2=4; 10-3",
        "a,b,c;d",
        "x" * 1100,
        "a\u00a0b\u2003c",
        "end\u2028of line",
    ),
    *(
        "“Curly,” she said. ‘Yes.’",
        "«Guillemets» here.",
        "word—word–word--word",
        "...starts with dots",
        "etc.",
    ),
)


def nasty_documents(count: int, seed: int = 0) -> Iterator[str]:
    """Made documents that each rule drops some of: prose, menus, lists, code, symbols, repeats, mixed."""
    draw = random.Random(seed)
    for _ in range(count):
        lines: list[str] = []
        weights = [draw.random() ** 3 for _ in range(4)]
        for _ in range(draw.choice((1, 3, 8, 20, 40))):
            kind = draw.choices(range(4), weights)[0]
            if kind == 0:
                lines.append(". ".join(draw.choices(_PROSE, k=draw.randint(1, 6))) + ".")
            elif kind == 1:
                lines.append(draw.choice(_LINES))
            elif kind == 2 and lines:
                lines += draw.choices(lines, k=draw.randint(1, 4))
            else:
                words = " ".join(_PROSE).split()
                lines.append(
                    " ".join(draw.choices(words, k=draw.randint(2, 60))) + draw.choice(("", ".", "...", "…"))
                )
        if draw.random() < 0.05:
            lines = [f"{draw.choice('-•')} {line}" for line in lines]
        yield draw.choice(("\n", "\n\n", "\r\n", " \n")).join(lines)

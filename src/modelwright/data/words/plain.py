"""Words and sentences in plain Python: the reference that `native.cpp` is tested against.

Published filters count spaCy's words (datatrove's FineWeb recipe does), so these rules are written to give
the words of its blank English pipeline and the sentences of its `sentencizer` (spaCy 3, MIT; the algorithm is
described at https://spacy.io/usage/linguistic-features#how-tokenizer-works):

1. Text is cut into chunks at white space.
2. From a chunk prefixes and suffixes are taken off, one of each in turn, until what is left is an exception
   or has neither.
3. What is left is an exception, a URL, or is cut at its infixes.
4. Pieces side by side that spell an exception (the "Mr" and "." of "Dr./Mr.") become what the exception says.

All functions take a text and the places `start` and `end` in it, and look at nothing outside of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate, pairwise

from modelwright.data.words import kinds
from modelwright.data.words.exceptions import LONGEST, Pieces, exceptions
from modelwright.data.words.urls import Span, is_url

_MEASURES = """
km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa
Pa mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с
км/ч кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ
"""
DOLLARS = ("US$", "C$", "A$")
UNITS = frozenset([*_MEASURES.split(), *DOLLARS, *kinds.CURRENCY])
"""Units and currencies, which are words of their own behind a digit."""

KEPT = 64
"""Chunks of up to so many characters are remembered."""
LONGEST_UNIT = max(map(len, UNITS))
HYPHENS = ("-", "–", "—", "--", "---", "——", "~")
"""Tried in this order."""

_CHUNKS = re.compile(r"\s+|\S+")


def tokens(text: str, language: str) -> Iterator[Span]:
    """Words, and white space wherever it is more than one space between two chunks."""
    for chunk in _CHUNKS.finditer(text):
        start, end = chunk.span()
        if text[start].isspace():
            start += start > 0 and text[start] == " "
            if start < end:
                yield start, end
        else:
            lengths = _lengths if end - start <= KEPT else _lengths.__wrapped__
            for length in lengths(chunk[0], language):
                yield start, start + length
                start += length


def words(text: str, language: str) -> list[Span]:
    """The tokens that are not white space."""
    return [span for span in tokens(text, language) if not text[span[0]].isspace()]


def sentence_ends(text: str, language: str) -> list[int]:
    """Where each sentence ends. White space between two sentences belongs to the later one.

    A sentence begins with the first token behind a mark like "." that is no punctuation itself.
    """
    of, ends, last, closed = kinds.of(), list[int](), 0, False
    for start, end in tokens(text, language):
        terminal = end - start == 1 and of[ord(text[start])] & kinds.TERMINAL
        if terminal:
            closed = True
        elif closed and not all(of[ord(c)] & kinds.PUNCTUATION for c in text[start:end]):
            ends.append(last)
            closed = False
        last = end
    return [*ends, len(text)]


@lru_cache(1 << 16)
def _lengths(chunk: str, language: str) -> tuple[int, ...]:
    """How long each word of a chunk is. Most chunks are among the few that were seen before (Zipf)."""
    spans = split(chunk, exceptions(language))
    if len(spans) > 1:
        spans = _joined(chunk, spans, language)
    if language != "en":
        spans = [part for span in spans for part in _letters(chunk, *span)]
    return tuple(end - start for start, end in spans)


def _exception(text: str, start: int, end: int, known: Mapping[str, Pieces]) -> Pieces:
    """The pieces of an exception; none where there is none."""
    return known.get(text[start:end], ()) if end - start <= LONGEST else ()


def split(chunk: str, known: Mapping[str, Pieces]) -> list[Span]:
    """Steps 2 and 3 for one chunk; `known` are the exceptions."""
    start, end, suffixes = 0, len(chunk), list[Span]()
    spans: list[Span] = []
    while start < end and not _exception(chunk, start, end, known):
        prefix = prefix_length(chunk, start, end)
        if prefix and _exception(chunk, start + prefix, end, known):
            spans.append((start, start + prefix))
            start += prefix
            break
        suffix = suffix_length(chunk, start + prefix, end)
        if suffix:
            suffixes.append((end - suffix, end))
            if _exception(chunk, start, end - suffix, known):
                end -= suffix
                break
        if not prefix and not suffix:
            break
        if prefix:
            spans.append((start, start + prefix))
        start, end = start + prefix, end - suffix
    spans += _core(chunk, start, end, known)
    return spans + suffixes[::-1]


def _core(text: str, start: int, end: int, known: Mapping[str, Pieces]) -> list[Span]:
    """Step 3."""
    if start == end:
        return []
    pieces = _exception(text, start, end, known)
    if pieces:
        return _laid(start, pieces)
    if is_url(text, start, end):
        return [(start, end)]
    spans, word = list[Span](), start
    for first, behind in infixes(text, start, end):
        if first > start:  # one at the very beginning splits nothing
            if first > word:
                spans.append((word, first))
            spans.append((first, behind))
            word = behind
    return [*spans, (word, end)] if word < end else spans


def _laid(start: int, pieces: Pieces) -> list[Span]:
    """Pieces one behind the other from a place on."""
    ends = list(accumulate(map(len, pieces), initial=start))
    return list(pairwise(ends))


def prefix_length(text: str, start: int, end: int) -> int:
    """Characters to take off the front; 0 is none."""
    if start == end:
        return 0
    of = kinds.of()
    first = text[start]
    if first == "." or first in "UCA+":
        if run := _dots(text, start, end):
            return run
        if first == "+":
            return int(not (start + 1 < end and text[start + 1] in "0123456789"))
        return next((len(mark) for mark in DOLLARS if text.startswith(mark, start, end)), 0)
    return int(of[ord(first)] & kinds.PREFIX != 0)


def suffix_length(text: str, start: int, end: int) -> int:
    """Characters to take off the end: the longest that any rule would take."""
    if start == end:
        return 0
    of = kinds.of()
    last = text[end - 1]
    if last == ".":
        return _stop_length(text, start, end)
    for length in range(min(LONGEST_UNIT, end - start - 1), 0, -1):
        unit = text[end - length : end] in UNITS or (length == 1 and last == "+")
        if unit and text[end - length - 1] in "0123456789":
            return length
    if end - start > 1 and ((last in "sS" and text[end - 2] in "'’") or (last == "…" == text[end - 2])):
        return 2
    return int(of[ord(last)] & kinds.SUFFIX != 0)


def _stop_length(text: str, start: int, end: int) -> int:
    """The same for a text that ends in a full stop."""
    of = kinds.of()
    first = end - 1
    while first > start and text[first - 1] == ".":
        first -= 1
    if end - first > 1:
        return end - first
    if first == start:
        return 0
    before, earlier = text[first - 1], text[first - 2] if first - start > 1 else ""
    if of[ord(before)] & kinds.BEFORE_STOP or (earlier == "°" and before in "FCK"):
        return 1
    return int(bool(earlier and of[ord(before)] & of[ord(earlier)] & kinds.UPPER))


def infixes(text: str, start: int, end: int) -> Iterator[Span]:
    """The marks inside a chunk that are words of their own."""
    place = start
    while place < end:
        length = _infix_length(text, start, place, end)
        if length:
            yield place, place + length
        place += length or 1


def _infix_length(text: str, start: int, place: int, end: int) -> int:
    of = kinds.of()
    mark = text[place]
    if of[ord(mark)] & (kinds.LETTER | kinds.NUMBER):
        return 0
    if run := _dots(text, place, end):
        return run
    if mark == "…" or of[ord(mark)] & kinds.ICON:
        return 1
    if place == start or place + 1 == end:
        return 0
    before, behind = text[place - 1], text[place + 1]
    digit = before in "0123456789"
    if digit and mark in "+-*^" and behind in "0123456789-":
        return 1
    kind, next_kind = of[ord(before)], of[ord(behind)]
    if mark == ".":
        low, high = kind & (kinds.LOWER | kinds.QUOTE), next_kind & (kinds.UPPER | kinds.QUOTE)
        return int(low != 0 and high != 0)
    if mark == ",":
        return int(kind & next_kind & kinds.LETTER != 0)
    if not (digit or kind & kinds.LETTER):
        return 0
    if mark in ":<>=/":
        return int(next_kind & kinds.LETTER != 0)
    for hyphen in HYPHENS:
        after = place + len(hyphen)
        if after < end and text.startswith(hyphen, place) and of[ord(text[after])] & kinds.LETTER:
            return len(hyphen)
    return 0


def _dots(text: str, start: int, end: int) -> int:
    """How many full stops stand here, if more than one."""
    place = start
    while place < end and text[place] == ".":
        place += 1
    return place - start if place - start > 1 else 0


@cache
def patterns(language: str) -> Mapping[tuple[str, ...], str]:
    """How the rules alone would cut an exception -> the exception. Only of those that they would touch."""
    found: dict[tuple[str, ...], str] = {}
    for chunk in exceptions(language):
        end = len(chunk)
        touched = prefix_length(chunk, 0, end) or suffix_length(chunk, 0, end) or any(infixes(chunk, 0, end))
        spans = split(chunk, {})
        if touched and len(spans) > 1:
            found[tuple(chunk[a:b] for a, b in spans)] = chunk
    return found


def _joined(chunk: str, spans: list[Span], language: str) -> list[Span]:
    """Step 4. The longest run of pieces goes first, of equally long ones the first in the chunk; another one
    that touches it with either end is left as it is."""
    known, longest = patterns(language), _longest(language)
    pieces = [chunk[start:end] for start, end in spans]
    found: list[tuple[int, int]] = []
    for length in range(min(longest, len(pieces)), 1, -1):
        found += [
            (i, length) for i in range(len(pieces) - length + 1) if tuple(pieces[i : i + length]) in known
        ]
    if not found:
        return spans
    chosen = _chosen(found)
    made: list[Span] = []
    place = 0
    while place < len(spans):
        length = chosen.get(place, 0)
        if length:
            made += _laid(spans[place][0], exceptions(language)["".join(pieces[place : place + length])])
        else:
            made.append(spans[place])
        place += length or 1
    return made


def _chosen(found: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Which of the runs (first piece, length) are taken, by their first piece."""
    seen: set[int] = set()
    chosen: dict[int, int] = {}
    for first, length in found:
        if first not in seen and first + length - 1 not in seen:
            chosen[first] = length
        seen.update(range(first, first + length))
    return chosen


@cache
def _longest(language: str) -> int:
    return max(map(len, patterns(language)))


def _letters(chunk: str, start: int, end: int) -> Iterator[Span]:
    """A word cut so that each letter of a script without spaces, with its marks, stands alone."""
    of = kinds.of()
    begin = start
    for place in range(start, end):
        kind, before = of[ord(chunk[place])], of[ord(chunk[place - 1])] if place > start else 0
        mark = kind & (kinds.LETTER | kinds.ALPHABETIC) == kinds.LETTER
        if place > begin and (kind | before) & kinds.UNSPACED and not mark:
            yield begin, place
            begin = place
    yield begin, end

"""What the filters count over words. Each measure has a compiled and a plain path with the same results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from modelwright.data.words import kinds, native
from modelwright.data.words.segment import Segmentation


@dataclass(frozen=True, slots=True)
class WordMeasures:
    """Counts over the words of one text."""

    words: int
    """Words that are more than punctuation."""
    characters: int
    """Characters in those."""
    alphabetic: int
    """Words with at least one letter, of all words."""
    stop_words: int
    """How many of the stop words occur."""


def measure_words(text: Segmentation, stop_words: Sequence[str]) -> WordMeasures:
    """What Gopher's quality rules ask (arXiv:2112.11446, appendix A1.1). Stop words differ by case."""
    if text.codes is not None:
        return WordMeasures(*native.measure_words(text.codes, text.spans, stop_words))
    of, words = kinds.of(), text.words()
    spelled = [word for word in words if not all(of[ord(character)] & kinds.SYMBOL for character in word)]
    return WordMeasures(
        words=len(spelled),
        characters=sum(map(len, spelled)),
        alphabetic=sum(any(of[ord(c)] & kinds.ALPHABETIC for c in word) for word in words),
        stop_words=len(set(stop_words).intersection(words)),
    )


@dataclass(frozen=True, slots=True)
class Repeats:
    """Characters in runs of words that come more than once, one value for each length of run asked."""

    top: tuple[int | None, ...]
    """Of the most frequent run (with spaces between its words), times how often it comes; of equally frequent
    ones the first. None where the text is shorter than a run."""
    repeated: tuple[int, ...]
    """Of all runs that came before (without spaces), each character counted once at most."""


def measure_repeats(text: Segmentation, top: Sequence[int], repeated: Sequence[int]) -> Repeats:
    """What Gopher's repetition rules ask (arXiv:2112.11446, table A1). `top` and `repeated` are lengths of
    runs in words, at least 1."""
    if text.codes is not None:
        most, again = native.measure_repeats(text.codes, text.spans, top, repeated)
        return Repeats(tuple(None if value < 0 else value for value in most), tuple(again))
    words = text.words()
    return Repeats(
        tuple(_characters_of_top(words, length) for length in top),
        tuple(_characters_repeated(words, length) for length in repeated),
    )


def _characters_of_top(words: list[str], length: int) -> int | None:
    runs = Counter(" ".join(words[i : i + length]) for i in range(len(words) - length + 1))
    if not runs:
        return None
    run, count = runs.most_common(1)[0]
    return len(run) * count


def _characters_repeated(words: list[str], length: int) -> int:
    """A run that is found to be a repeat is passed over whole. Runs are equal if their letters are, however
    these are cut into words."""
    seen: set[str] = set()
    characters = place = 0
    while place <= len(words) - length:
        run = "".join(words[place : place + length])
        if run in seen:
            characters += len(run)
            place += length
        else:
            seen.add(run)
            place += 1
    return characters


def duplicates(parts: Sequence[str]) -> tuple[int, int]:
    """(how many parts came before in the list, characters in them)."""
    if len(set(parts)) == len(parts):
        return 0, 0
    seen: set[str] = set()
    again = [part for part in parts if part in seen or seen.add(part)]
    return len(again), sum(map(len, again))

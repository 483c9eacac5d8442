"""C4's rules: lines that are no sentences go, and pages with too little left (arXiv:1910.10683).

Order and details are those of datatrove 0.10. FineWeb takes these rules with `terminal_punctuation: false`.
What was removed from a document that stays is counted in `meta["removed_lines"]`, by rule.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from modelwright.base import config
from modelwright.base.schema import Document, Reason
from modelwright.base.seams import Drop, Step
from modelwright.data.words.limits import below
from modelwright.data.words.lines import with_lines
from modelwright.data.words.segment import count_sentences

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_ENDS = (".", "?", "!", '"', "'")
_POLICY = (
    "terms of use",
    "privacy policy",
    "cookie policy",
    "uses cookies",
    "use of cookies",
    "use cookies",
)
_PHRASES = ("lorem ipsum", "javascript", *_POLICY)


class Config(config.Config):
    """The published rules. `null` and `false` switch one off."""

    language: str = "en"
    """Whose sentences are counted (ISO 639-1)."""
    remove_citations: bool = True
    """Take "[1]", "[edit]" and "[citation needed]" out of lines."""
    terminal_punctuation: bool = True
    """Remove lines that do not end in . ? ! or a quotation mark, and those that end in an ellipsis."""
    min_words: int | None = 3
    """Remove lines of fewer words (between white space)."""
    max_word_length: int | None = 1000
    """Remove lines with a longer word, in characters."""
    lorem_ipsum: bool = True
    """Drop documents with "lorem ipsum"."""
    javascript: bool = True
    """Remove lines with "javascript"."""
    curly_bracket: bool = True
    """Drop documents with "{"."""
    policy: bool = True
    """Remove lines about cookies, privacy and terms of use."""
    min_sentences: int | None = 5
    """Drop documents with fewer sentences left."""


def step(config: Config) -> Step:
    """The Step."""

    def clean(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            removed: Counter[str] = Counter()
            kept = kept_lines(document.text, config, removed)
            reason = kept if isinstance(kept, Reason) else _too_short(kept, config)
            if reason is not None:
                drop(document, reason)
            elif not isinstance(kept, Reason):
                yield with_lines(document, "\n".join(kept).strip(), removed)

    return clean


def kept_lines(text: str, config: Config, removed: Counter[str]) -> list[str] | Reason:
    """The lines that stay, or why the document goes. `removed` counts the others by rule."""
    kept: list[str] = []
    longest, least = config.max_word_length, config.min_words
    suspect = _is_suspect(text, config)
    for line in map(str.strip, text.splitlines()):
        if longest is not None and len(line) > longest and max(map(len, line.split())) > longest:
            removed["c4: long word"] += 1
            continue
        few = least is not None and len(line.split(None, least)) < least  # citations are words, too
        if config.remove_citations and "[" in line:
            line = _CITATION.sub("", line)
        if config.terminal_punctuation and (not line.endswith(_ENDS) or line.endswith("...")):
            removed["c4: no terminal punctuation"] += 1
            continue
        if few:
            removed["c4: few words"] += 1
            continue
        verdict = _content(line, config) if suspect else None
        if isinstance(verdict, Reason):
            return verdict
        if verdict:
            removed[verdict] += 1
        else:
            kept.append(line)
    return kept


def _is_suspect(text: str, config: Config) -> bool:
    """Whether any line can hold what `_content` looks for; nearly all texts are cleared by one look."""
    text = _CITATION.sub("", text) if config.remove_citations and "[" in text else text
    lower = text.lower()
    return "{" in text or any(phrase in lower for phrase in _PHRASES)


def _content(line: str, config: Config) -> Reason | str | None:
    """Why the document goes, or the rule by which the line goes."""
    lower = line.lower()
    if config.lorem_ipsum and "lorem ipsum" in lower:
        return Reason("c4: lorem ipsum", says="a page without its text")
    if config.javascript and "javascript" in lower:
        return "c4: javascript"
    if config.curly_bracket and "{" in line:
        return Reason("c4: curly bracket", says="code, not prose")
    if config.policy and any(phrase in lower for phrase in _POLICY):
        return "c4: policy"
    return None


def _too_short(kept: Sequence[str], config: Config) -> Reason | None:
    if config.min_sentences is None:
        return None
    return below("c4: sentences", count_sentences(kept, config.language), config.min_sentences)

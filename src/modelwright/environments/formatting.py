"""Rules about the form of an answer: one word, upper case, JSON with these keys, a list of three.

A rule is a function (arguments, text) -> None when kept, else what is wrong, in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from modelwright.base.schema import Json, Score
from modelwright.environments.matching import MAX_CHARACTERS, contains

Rule = Callable[[Mapping[str, Any], str], str | None]


def check_format(target: Mapping[str, Json], text: str) -> Score:
    """Check `text` against `target["rule"]`, and against `target["answers"]` where content is asked too."""
    rule = RULES.get(str(target["rule"]))
    if rule is None:
        known = ", ".join(sorted(RULES))
        return Score(value=None, reason=f"ungraded: no rule '{target['rule']!s:.40}'; known: {known}")
    if len(text) > MAX_CHARACTERS:
        return Score(
            value=0.0, reason=f"{len(text):,} characters, the most that is read is {MAX_CHARACTERS:,}"
        )
    stripped = text.strip()
    if not stripped:
        return Score(value=0.0, reason="is empty")
    try:
        wrong = rule(target, stripped)
    except (KeyError, TypeError, ValueError) as error:
        return Score(
            value=None, reason=f"ungraded: the target of rule '{target['rule']}' is broken: {error!r:.80}"
        )
    if wrong is None:
        answers = target.get("answers") or []
        if answers and not any(contains(stripped, str(answer)) for answer in answers):
            wrong = f"has the right form, but does not say '{answers[0]}'"
    return Score(value=float(wrong is None), reason=wrong or f"keeps the rule '{target['rule']}'")


def _one_word(target: Mapping[str, Any], text: str) -> str | None:
    count = len(text.split())
    return None if count == 1 else f"{count} words, asked for one"


def _words(target: Mapping[str, Any], text: str) -> str | None:
    count, wanted = len(text.split()), int(target["count"])
    return None if count == wanted else f"{count} words, asked for {wanted}"


def _at_most_words(target: Mapping[str, Any], text: str) -> str | None:
    count, most = len(text.split()), int(target["count"])
    return None if count <= most else f"{count} words, asked for at most {most}"


def _upper_case(target: Mapping[str, Any], text: str) -> str | None:
    return None if text == text.upper() and text != text.lower() else "is not all in capital letters"


def _lower_case(target: Mapping[str, Any], text: str) -> str | None:
    return None if text == text.lower() and text != text.upper() else "is not all in small letters"


def _number_only(target: Mapping[str, Any], text: str) -> str | None:
    return None if re.fullmatch(r"-?[0-9]{1,30}\.?", text) else "is not a number alone"


def _one_sentence(target: Mapping[str, Any], text: str) -> str | None:
    count = len(re.findall(r"[.!?]+(?=\s|$)", text))
    return None if count == 1 and text[-1] in ".!?" else f"{count} full sentences, asked for one"


def _json_keys(target: Mapping[str, Any], text: str) -> str | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "is not valid JSON"
    if not isinstance(value, dict):
        return f"is JSON, but a {type(value).__name__}, not an object"
    keys = {str(key) for key in target["keys"]}
    return None if keys == set(value) else f"has the keys {sorted(value)!r:.80}, asked for {sorted(keys)}"


def _list_of(target: Mapping[str, Any], text: str) -> str | None:
    """Items on lines of their own ("- a" or "1. a"), or on one line between commas."""
    lines = [line for line in text.splitlines() if line.strip()]
    marked = [line for line in lines if re.match(r"\s{0,8}(?:[-*\u2022]|[0-9]{1,3}[.)])\s*\S", line)]
    items = marked or (lines if len(lines) > 1 else text.rstrip(".").split(","))
    wanted = int(target["count"])
    if any(not item.strip() for item in items):
        return "has an empty item"
    return None if len(items) == wanted else f"{len(items)} items, asked for {wanted}"


def _starts(target: Mapping[str, Any], text: str) -> str | None:
    return None if text.startswith(str(target["text"])) else f"does not begin with '{target['text']}'"


def _ends(target: Mapping[str, Any], text: str) -> str | None:
    return None if text.endswith(str(target["text"])) else f"does not end with '{target['text']}'"


RULES: Mapping[str, Rule] = {
    "one_word": _one_word,
    "words": _words,
    "at_most_words": _at_most_words,
    "upper_case": _upper_case,
    "lower_case": _lower_case,
    "number_only": _number_only,
    "one_sentence": _one_sentence,
    "json_keys": _json_keys,
    "list_of": _list_of,
    "starts_with": _starts,
    "ends_with": _ends,
}
"""Name -> rule. `count`, `keys` and `text` are read from the target beside it."""

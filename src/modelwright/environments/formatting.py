"""Rules about the form of an answer: one word, upper case, JSON with these keys, a list of three.

The rules are those of `data/atlas/instructions.py`.

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


def _upper_case(target: Mapping[str, Any], text: str) -> str | None:
    return None if text == text.upper() and text != text.lower() else "is not all in capital letters"


def _starts_with(target: Mapping[str, Any], text: str) -> str | None:
    start = str(target["text"])
    if not text.startswith(start):
        return f"does not begin with '{start}'"
    return None if text != start else f"is '{start}' and nothing more"


def _one_of(target: Mapping[str, Any], text: str) -> str | None:
    options = [str(option) for option in target["options"]]
    said = text.removesuffix(".").casefold()
    return None if said in [option.casefold() for option in options] else f"is none of {options!r:.80}"


def _json_keys(target: Mapping[str, Any], text: str) -> str | None:
    """Nothing may stand around the object; a key that comes twice is an error, as it hides a value."""
    keys = [str(key) for key in target["keys"]]
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except (ValueError, RecursionError):
        return "is not valid JSON"
    if not text.startswith("{"):
        return "is JSON, but not an object"
    found = [key for key, _ in pairs]
    return None if sorted(found) == sorted(keys) else f"has the keys {found!r:.80}, asked for {keys}"


def _list_of(target: Mapping[str, Any], text: str) -> str | None:
    """Different lines, each "- " and an item, and no other line."""
    count, lines = int(target["count"]), [line.strip() for line in text.splitlines()]
    if not all(re.match(r"- *\S", line) for line in lines):
        return "has a line that does not begin with a dash"
    if len({line.casefold() for line in lines}) < len(lines):
        return "has the same item twice"
    return None if len(lines) == count else f"{len(lines)} items, asked for {count}"


RULES: Mapping[str, Rule] = {
    "one_word": _one_word,
    "upper_case": _upper_case,
    "starts_with": _starts_with,
    "one_of": _one_of,
    "json_keys": _json_keys,
    "list_of": _list_of,
}
"""Name -> rule. What a rule needs (`text`, `options`, `keys`, `count`) stands beside it in the target."""

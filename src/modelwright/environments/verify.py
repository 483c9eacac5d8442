"""Verifiers: exact checks of an answer, by name. A problem names its verifier and gives the target.

Each takes (target, text) and gives a `Score` with the reason in words. A fault of the check itself (a
target of the wrong form) is "ungraded", value None: it must not look like a wrong answer. The text is
hostile: every check is bounded and none runs or evaluates anything in it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.schema import Json, Problem, Score
from modelwright.environments.formatting import check_format
from modelwright.environments.invention import judge
from modelwright.environments.matching import MAX_CHARACTERS, first_held, normalise, starts_with

Verifier = Callable[[Json, str], Score]


def verify(problem: Problem, text: str) -> Score:
    """Score `text` as an answer to `problem`."""
    try:
        verifier = VERIFIERS[problem.verifier]
    except KeyError:
        hint = did_you_mean(problem.verifier, VERIFIERS)
        raise UserError(f"problem {problem.id} asks for the verifier '{problem.verifier}'.{hint}") from None
    return verifier(problem.target, text)


def passed(good: bool, reason: str) -> Score:
    """1 or 0, and why."""
    return Score(value=float(good), reason=reason)


def ungraded(expected: str, target: Json) -> Score:
    """The problem is at fault, not the answer."""
    return Score(value=None, reason=f"ungraded: the target should be {expected}, it is {target!r:.80}")


def answer(target: Json, text: str) -> Score:
    """The text contains one of the accepted answers as whole words."""
    accepted = _strings(target)
    if not accepted:
        return ungraded("a list of accepted answers", target)
    found = first_held(text, accepted)
    return passed(found is not None, f"says '{found}'" if found else f"does not say '{accepted[0]}'")


def prefix(target: Json, text: str) -> Score:
    """The text, a continuation of a bare prefix, begins with one of the accepted answers."""
    accepted = _strings(target)
    if not accepted:
        return ungraded("a list of accepted answers", target)
    found = next((choice for choice in accepted if starts_with(text, choice)), None)
    return passed(found is not None, f"goes on '{found}'" if found else f"does not go on '{accepted[0]}'")


_NUMBER = re.compile(r"(?<![\w.])-?[0-9][0-9,]{0,30}(?:\.[0-9]{1,30})?(?![0-9])")
_PART_BEFORE = re.compile(r"(?:[/\u2044^]\s*|[0-9.][eE])[-+]?$")
_PART_BEHIND = re.compile(r"\s*[/\u2044^]|[eE][-+]?[0-9]")
_RAISED = re.compile("(?<=[0-9)])(?=[\u2070\u00b9\u00b2\u00b3\u2074-\u2079\u207b])")
"""Where a power begins, which would look like digits of the number itself once signs are plain."""


def number(target: Json, text: str) -> Score:
    """The last number in the text equals the target: "7 + 5 = 12." says 12."""
    if isinstance(target, bool) or not isinstance(target, int | float):
        return ungraded("a number", target)
    last = last_number(text)
    if last is None:
        return passed(False, "holds no number")
    return passed(last == target, f"the last number is {last:.15g}, expected {target:.15g}")


def last_number(text: str) -> float | None:
    """The last number that stands in a text; None where there is none."""
    *_, last = (None, *_NUMBER.finditer(_end(text)))
    return float(last[0].replace(",", "")) if last else None


def plain_number(text: str) -> float | None:
    """The last number of a text, where it is the whole of what stands there: None for 3/4, 1e3 and 10^3,
    of which it would be a part."""
    shown = _end(text)
    *_, last = (None, *_NUMBER.finditer(shown))
    if last is None or _PART_BEFORE.search(shown[max(0, last.start() - 8) : last.start()]):
        return None
    if _PART_BEHIND.match(shown, last.end()):
        return None
    return float(last[0].replace(",", ""))


def _end(text: str) -> str:
    """Where the last number stands, in plain signs; without what may be the rest of a number that was cut."""
    shown = unicodedata.normalize("NFKC", _RAISED.sub("^", text[-MAX_CHARACTERS:])).replace("\u2212", "-")
    return shown if len(text) <= MAX_CHARACTERS else shown.lstrip("0123456789.,-")


def unknown(target: Json, text: str) -> Score:
    """The text says that it does not know, or that there is no such thing, and states no answer.

    What is asked about does not exist (the target may name it), so any stated answer is an invention.
    """
    return passed(*judge(text))


def format_(target: Json, text: str) -> Score:
    """The text has the form that was asked for: see `formatting.RULES`."""
    if not isinstance(target, Mapping) or not isinstance(target.get("rule"), str):
        return ungraded("a mapping with a 'rule'", target)
    return check_format(target, text)


def length(target: Json, text: str) -> Score:
    """The number of words in the text: a measure, not a mark."""
    count = len(text.split())
    return Score(value=float(count), reason=f"{count} words")


def choice(target: Json, text: str) -> Score:
    """The text is the right one of the choices (evaluation picks the text that the model finds likelier)."""
    if not isinstance(target, Mapping) or not _strings(target.get("choices")):
        return ungraded("a mapping with 'choices' and 'answer'", target)
    choices, right = _strings(target["choices"]), target.get("answer")
    if isinstance(right, bool) or not isinstance(right, int) or not 0 <= right < len(choices):
        return ungraded("a mapping whose 'answer' is a place in 'choices'", target)
    return passed(text == choices[right], f"prefers '{text:.80}', right is '{choices[right]}'")


def _strings(value: Json) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return []
    return [item for item in value if isinstance(item, str) and normalise(item)]


VERIFIERS: Mapping[str, Verifier] = {
    "answer": answer,
    "prefix": prefix,
    "number": number,
    "unknown": unknown,
    "format": format_,
    "length": length,
    "choice": choice,
}
"""Name -> check."""

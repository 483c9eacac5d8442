"""Errors that teach: what was received, what was expected, what to do.

A mistake of the user raises a `UserError`; the command line prints it without a traceback and exits
1. Broken invariants are `assert`s, and everything else keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something that the user can mend. The message says how."""


class ConfigError(UserError):
    """A recipe, a setting or an argument is wrong (the command line exits 2)."""


class GateRefused(UserError):
    """A check that guards an artifact said no (the command line exits 3)."""


class DamagedFile(UserError):
    """A file is truncated, garbled or not what its name says."""


CLOSE = 0.75
"""How alike two names are that one may be taken for the other: "sead" and "seed"."""


def closest(word: str, known: Iterable[str]) -> str | None:
    """The name that was probably meant; None where no name is close."""
    return next(iter(get_close_matches(word, sorted(known), n=1, cutoff=CLOSE)), None)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'depth'?` for a near miss, else the list of what there is."""
    names = sorted(known)
    near = closest(word, names)
    if near:
        return f" Did you mean '{near}'?"
    return f" Known: {', '.join(names)}." if names else ""

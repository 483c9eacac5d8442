"""A policy: what the sources of a corpus, and of every model that learns from it, must be.

A recipe states it once. Before any work it is held against what the sources say, and at every later
stage against the roll-up of the inputs. What a source does not say breaks every rule about it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Literal

from modelwright.base.config import Config
from modelwright.base.errors import GateRefused
from modelwright.base.provenance import UNKNOWN, Facts, Provenance
from modelwright.base.schema import Reason

PER_DOCUMENT = "per-document"
"""What a source states where each of its documents states it: documents are then judged one by one."""
NO_JURISDICTION = "none"
"""Of texts that nobody's law governs, such as generated ones."""
EU = frozenset(
    re.findall(r"\w+", "AT BE BG CY CZ DE DK EE ES FI FR GR HR HU IE IT LT LU LV MT NL PL PT RO SE SI SK")
)
REGIONS = {"EU": EU | {"EU"}, "EEA": EU | {"EU", "EEA", "IS", "LI", "NO"}}
"""Names that stand for several ISO 3166-1 codes."""

_SHARE_ALIKE = re.compile(
    r"[- ]SA\b|share-?alike|CDLA-Sharing|GPL|GFDL|ODbL|MPL|EPL-|EUPL-|OSL-|CDDL-|CECILL-[12]|MS-RL|SSPL", re.I
)
UNSTATED = frozenset(["unknown", "noassertion", "none", "other", "proprietary", ""])
"""Words in the place of a licence that allow nothing, whatever else they mean."""
_NON_COMMERCIAL = re.compile(r"\bNC\b|non-?commercial", re.I)
_NO_DERIVATIVES = re.compile(r"\bND\b|no-?deriv", re.I)


@dataclass(frozen=True, slots=True)
class Breach:
    """A source that breaks a rule."""

    source: str
    rule: str
    found: str
    wanted: str

    def as_reason(self) -> Reason:
        """Why a document of it goes."""
        return Reason(f"policy: {self.rule}", self.found, self.wanted)

    def __str__(self) -> str:
        return f"source '{self.source}' breaks policy.{self.rule}: it has {self.found}, {self.wanted}"


class Policy(Config):
    """What sources must be. Every rule left out allows everything."""

    jurisdictions: tuple[str, ...] | None = None
    """Only these: ISO 3166-1 alpha-2 codes, or EU, EEA. "none" (nobody's law) always passes."""
    licences: tuple[str, ...] | None = None
    """Only these SPDX identifiers."""
    share_alike: bool = True
    """False: no licence that asks for works made from it to carry it too (CC-BY-SA, GPL, ODbL...)."""
    non_commercial: bool = True
    """False: no licence that forbids commercial use."""
    no_derivatives: bool = True
    """False: no licence that forbids works made from it."""
    personal_data: Literal["any", "masked", "none"] = "any"
    """masked: only texts without personal data or with it masked; none: only without."""
    legal_basis: tuple[str, ...] | None = None
    """Only these; an empty list asks that one be stated, whichever."""
    retention: bool = True
    """Refuse sources whose time to be kept is over."""

    def breaches(self, provenance: Provenance, on: date | None = None) -> list[Breach]:
        """Every rule that a source of the roll-up breaks."""
        return [
            breach
            for name, facts in provenance.by_source.items()
            for breach in self.of_source(name, facts, on or today())
        ]

    def of_source(self, name: str, facts: Facts, on: date) -> Iterator[Breach]:
        """Every rule that one source breaks."""
        for rule, found, wanted in self._broken(facts, on):
            yield Breach(name, rule, found, wanted)

    def _broken(self, facts: Facts, on: date) -> Iterator[tuple[str, str, str]]:
        for jurisdiction in facts.jurisdictions:
            if self.jurisdictions is not None and not _within(jurisdiction, self.jurisdictions):
                allowed = ", ".join(self.jurisdictions)
                yield "jurisdictions", f"jurisdiction '{jurisdiction}'", f"allowed: {allowed}"
        for licence in facts.licences:
            yield from self._broken_by_licence(licence)
        allowed_flags = {"any": None, "masked": {"no", "masked"}, "none": {"no"}}[self.personal_data]
        for flag in facts.personal_data:
            if allowed_flags is not None and flag not in allowed_flags:
                wanted = f"'{self.personal_data}' is the most that is allowed. State it, or mask it"
                yield "personal_data", f"personal data '{flag}'", wanted
        yield from self._broken_by_statement(facts, on)

    def _broken_by_licence(self, licence: str) -> Iterator[tuple[str, str, str]]:
        if licence == PER_DOCUMENT:
            return
        found = f"licence '{licence}'"
        unknown = not accepts(licence, lambda part: part.lower() not in UNSTATED)
        if self.licences is not None and not accepts(licence, self._is_listed):
            yield "licences", found, f"allowed: {', '.join(self.licences)}"
        for rule, pattern, what in (
            ("share_alike", _SHARE_ALIKE, "share-alike licences are not allowed"),
            ("non_commercial", _NON_COMMERCIAL, "non-commercial licences are not allowed"),
            ("no_derivatives", _NO_DERIVATIVES, "licences without derivatives are not allowed"),
        ):
            free = not unknown and accepts(licence, lambda part, p=pattern: not p.search(part))
            if not getattr(self, rule) and not free:
                yield rule, found, f"{what}, nor unknown ones" if unknown else what

    def _is_listed(self, licence: str) -> bool:
        """Whether a licence is among those allowed; SPDX identifiers mean the same in small letters."""
        return licence.lower() in {allowed.lower() for allowed in self.licences or ()}

    def _broken_by_statement(self, facts: Facts, on: date) -> Iterator[tuple[str, str, str]]:
        for basis in facts.bases() if self.legal_basis is not None else ():
            if basis == UNKNOWN or (self.legal_basis and basis not in self.legal_basis):
                wanted = f"allowed: {', '.join(self.legal_basis or ()) or 'any that is stated'}"
                yield "legal_basis", f"legal basis '{basis}'", wanted
        for retention in facts.retention if self.retention else ():
            for until in re.findall(r"\d{4}-\d{2}-\d{2}", retention):
                if date.fromisoformat(until) < on:
                    yield "retention", f"retention until {until}", f"which is over on {on}"


ANYTHING = Policy()
"""No rule but that of retention."""


def today() -> date:
    """The day on which retention is judged."""
    return date.today()


def refuse(breaches: Iterable[Breach], what: str) -> None:
    """Raise `GateRefused` that names every source and rule, if there is any."""
    lines = [f"  {breach}" for breach in breaches]
    if lines:
        listed = "\n".join(lines)
        raise GateRefused(f"{what} breaks the recipe's policy. Nothing was done.\n{listed}")


def stated_facts(
    licence: str, jurisdiction: str, personal_data: str, legal_basis: str, retention: str
) -> Facts:
    """What a source says of itself, as the facts of one text."""
    counts: Mapping[str, dict[str, int]] = {
        "licences": {licence: 1},
        "jurisdictions": {} if jurisdiction == PER_DOCUMENT else {jurisdiction: 1},
        "personal_data": {} if personal_data == PER_DOCUMENT else {personal_data: 1},
    }
    return Facts(documents=1, legal_basis={legal_basis: 1}, retention={retention: 1}, **counts)


def judge_texts(policy: Policy) -> Callable[[str, str, str], Breach | None]:
    """(licence, jurisdiction, personal data flag) of one text -> the first rule that it breaks. What its
    source states as a whole is not looked at: that is judged before any work."""
    own = policy.model_copy(update={"legal_basis": None, "retention": False})

    @lru_cache(maxsize=4096)
    def judge(licence: str, jurisdiction: str, flag: str) -> Breach | None:
        facts = stated_facts(licence, jurisdiction, flag, UNKNOWN, UNKNOWN)
        return next(own.of_source("", facts, today()), None)

    return judge


def _within(jurisdiction: str, allowed: Iterable[str]) -> bool:
    codes: set[str] = {NO_JURISDICTION}
    for name in allowed:
        codes |= REGIONS.get(name.upper(), {name.upper()})
    return jurisdiction in codes or jurisdiction.upper() in codes


MAX_PARENTHESES = 32
"""In a licence expression; real ones have a handful."""


def accepts(licence: str, accept: Callable[[str], bool]) -> bool:
    """Whether an SPDX expression leaves a choice that is accepted: any side of an OR, all of an AND.
    `GPL-2.0-only WITH Classpath-exception-2.0` is judged as its licence."""
    tokens = re.findall(r"[()]|\b(?:AND|OR)\b|(?:(?!\b(?:AND|OR)\b)[^()])+", licence)
    tokens = [token.strip() for token in tokens if token.strip()]
    if tokens.count("(") > MAX_PARENTHESES:  # no licence: a text that was made to exhaust the stack
        return False
    value, rest = _choice(tokens, accept)
    return value and not rest


def _choice(tokens: list[str], accept: Callable[[str], bool]) -> tuple[bool, list[str]]:
    value, tokens = _all_of(tokens, accept)
    while tokens[:1] == ["OR"]:
        other, tokens = _all_of(tokens[1:], accept)
        value = value or other
    return value, tokens


def _all_of(tokens: list[str], accept: Callable[[str], bool]) -> tuple[bool, list[str]]:
    value, tokens = _one(tokens, accept)
    while tokens[:1] == ["AND"]:
        other, tokens = _one(tokens[1:], accept)
        value = value and other
    return value, tokens


def _one(tokens: list[str], accept: Callable[[str], bool]) -> tuple[bool, list[str]]:
    if tokens[:1] == ["("]:
        value, rest = _choice(tokens[1:], accept)
        return value and rest[:1] == [")"], rest[1:]
    if not tokens or tokens[0] in (")", "AND", "OR"):
        return False, tokens[1:]  # no licence where one should stand: nothing is allowed
    return accept(re.sub(r"\s+WITH\s+.*", "", tokens[0])), tokens[1:]

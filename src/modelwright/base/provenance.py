"""Provenance: what is known of the sources behind an artifact, rolled up per source.

Counts go from the corpus to every model that learned from it, so a model's manifest can say which
licences, jurisdictions and kinds of personal data are in it, and from which source each came.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from pydantic import Field, model_validator

from modelwright.base.config import Config
from modelwright.base.schema import Document

UNKNOWN = "unknown"


class Facts(Config):
    """What is known of one source, as counts of documents where documents of a source can differ."""

    documents: int = 0
    licences: dict[str, int] = Field(default_factory=dict)
    jurisdictions: dict[str, int] = Field(default_factory=dict)
    personal_data: dict[str, int] = Field(default_factory=dict)
    """Documents flagged "yes", "no", "masked" or "unknown"."""
    legal_basis: dict[str, int] = Field(default_factory=dict)
    """On what ground they may be used: "public domain", "licence", "consent", "EU 2019/790 Art. 4"."""
    retention: dict[str, int] = Field(default_factory=dict)
    """Until when they may be kept: an ISO date, or "indefinite"."""

    @model_validator(mode="before")
    @classmethod
    def _from_one_statement(cls, value: Any) -> Any:
        """Earlier manifests had one text for all documents of a source."""
        facts = cast(dict[str, Any], value)
        said = {name: facts.get(name) for name in ("legal_basis", "retention")}
        count = facts.get("documents", 0)
        return facts | {name: {text: count} for name, text in said.items() if isinstance(text, str)}

    def bases(self) -> dict[str, int]:
        """Legal basis -> documents, "unknown" where nobody has stated one."""
        return _with_unknown(self.legal_basis, self.documents)

    def retentions(self) -> dict[str, int]:
        """Retention -> documents, "unknown" where nobody has stated one."""
        return _with_unknown(self.retention, self.documents)

    def joined(self, other: Facts, join: Callable[[int, int], int]) -> Facts:
        """The two as one, counts put together by `join`."""
        return Facts(
            documents=join(self.documents, other.documents),
            licences=_counts(self.licences, other.licences, join),
            jurisdictions=_counts(self.jurisdictions, other.jurisdictions, join),
            personal_data=_counts(self.personal_data, other.personal_data, join),
            legal_basis=_counts(self.legal_basis, other.legal_basis, join),
            retention=_counts(self.retention, other.retention, join),
        )


def _counts(a: Mapping[str, int], b: Mapping[str, int], join: Callable[[int, int], int]) -> dict[str, int]:
    joined = {key: join(a.get(key, 0), b.get(key, 0)) for key in sorted({*a, *b})}
    return {key: count for key, count in joined.items() if count}


def _with_unknown(counts: Mapping[str, int], documents: int) -> dict[str, int]:
    unstated = documents - sum(counts.values())
    return _counts(counts, {UNKNOWN: max(unstated, 0)}, lambda a, b: a + b)


def personal_data_flag(personal_data: bool | None, masked: bool = False) -> str:
    """ "yes", "no", "masked" or "unknown"; `masked`: it was looked for, and what was found is masked."""
    if masked and personal_data is not False:
        return "masked"
    return {True: "yes", False: "no", None: UNKNOWN}[personal_data]


class Provenance(Config):
    """Roll-up over what was learned from, conversations and pairs included: the facts of each source."""

    by_source: dict[str, Facts] = Field(default_factory=dict)

    @classmethod
    def of(cls, documents: Iterable[Document]) -> Provenance:
        """Count a stream of documents."""
        return cls.count(
            (
                document.source,
                document.licence,
                document.jurisdiction,
                personal_data_flag(document.personal_data, "masked" in document.meta),
            )
            for document in documents
        )

    @classmethod
    def count(cls, known: Iterable[tuple[str, str, str, str]]) -> Provenance:
        """Count (source, licence, jurisdiction, personal data flag) of whatever was learned from."""
        return cls.tally(Counter(known).items())

    @classmethod
    def tally(cls, counted: Iterable[tuple[tuple[str, str, str, str], int]]) -> Provenance:
        """The same from what has been counted already."""
        counts: dict[str, tuple[dict[str, int], dict[str, int], dict[str, int]]] = {}
        for (source, *values), count in counted:
            tallies = counts.setdefault(source, ({}, {}, {}))
            for tally, value in zip(tallies, values, strict=True):
                tally[value] = tally.get(value, 0) + count
        return cls(
            by_source={
                source: Facts(
                    documents=sum(licences.values()),
                    licences=dict(sorted(licences.items())),
                    jurisdictions=dict(sorted(jurisdictions.items())),
                    personal_data=dict(sorted(personal.items())),
                )
                for source, (licences, jurisdictions, personal) in sorted(counts.items())
            }
        )

    def stating(self, stated: Mapping[str, tuple[str, str]]) -> Provenance:
        """The same with what sources state as a whole: source -> (legal basis, retention)."""
        return Provenance(
            by_source={
                name: facts.model_copy(
                    update={
                        "legal_basis": {stated[name][0]: facts.documents},
                        "retention": {stated[name][1]: facts.documents},
                    }
                )
                if name in stated
                else facts
                for name, facts in self.by_source.items()
            }
        )

    @property
    def documents(self) -> int:
        """Texts in all."""
        return sum(facts.documents for facts in self.by_source.values())

    @property
    def sources(self) -> dict[str, int]:
        """Source -> texts."""
        return {name: facts.documents for name, facts in self.by_source.items()}

    @property
    def licences(self) -> dict[str, int]:
        """Licence -> texts."""
        return self._over_all(lambda facts: facts.licences)

    @property
    def jurisdictions(self) -> dict[str, int]:
        """Jurisdiction -> texts."""
        return self._over_all(lambda facts: facts.jurisdictions)

    @property
    def personal_data(self) -> dict[str, int]:
        """Flag -> texts."""
        return self._over_all(lambda facts: facts.personal_data)

    @property
    def legal_bases(self) -> dict[str, int]:
        """Legal basis -> texts."""
        return self._over_all(lambda facts: facts.bases())

    @property
    def retentions(self) -> dict[str, int]:
        """Retention -> texts."""
        return self._over_all(lambda facts: facts.retentions())

    def __add__(self, other: Provenance) -> Provenance:
        """Of documents that the two do not share."""
        return self._joined(other, lambda a, b: a + b)

    def __or__(self, other: Provenance) -> Provenance:
        """Of inputs that may share documents: the larger of each two counts. Right where one input
        descends from the other; elsewhere a lower bound that loses no licence and no source."""
        return self._joined(other, max)

    def __sub__(self, other: Provenance) -> Provenance:
        """Without the documents of an input."""
        return self._joined(other, lambda a, b: max(a - b, 0))

    def _over_all(self, counts: Callable[[Facts], Mapping[str, int]]) -> dict[str, int]:
        total: dict[str, int] = {}
        for facts in self.by_source.values():
            total = _counts(total, counts(facts), lambda a, b: a + b)
        return total

    def _joined(self, other: Provenance, join: Callable[[int, int], int]) -> Provenance:
        nothing = Facts()
        joined = {
            name: self.by_source.get(name, nothing).joined(other.by_source.get(name, nothing), join)
            for name in sorted({*self.by_source, *other.by_source})
        }
        return Provenance(by_source={name: facts for name, facts in joined.items() if facts.documents})

"""Policies: which sources pass, which are refused, and that the refusal names source and rule."""

from __future__ import annotations

from datetime import date

import pytest

from modelwright.base.config import validate
from modelwright.base.errors import ConfigError, GateRefused
from modelwright.base.policy import PER_DOCUMENT, Policy, accepts, refuse, stated_facts
from modelwright.base.provenance import Facts, Provenance, personal_data_flag

TODAY = date(2026, 11, 22)


def rules(policy: Policy, **stated: str) -> set[str]:
    """Names of the rules that a source breaks which says this of itself."""
    facts = {
        "licence": "MIT",
        "jurisdiction": "DE",
        "personal_data": "no",
        "legal_basis": "licence",
        "retention": "indefinite",
    } | stated
    return {breach.rule for breach in policy.of_source("x", stated_facts(**facts), TODAY)}


def test_without_rules_everything_passes() -> None:
    assert not rules(Policy(), licence="unknown", jurisdiction="unknown", personal_data="yes")


@pytest.mark.parametrize(
    ("jurisdiction", "passes"),
    [
        ("DE", True),
        ("de", True),
        ("EU", True),
        ("none", True),
        ("US", False),
        ("unknown", False),
        ("NO", False),
    ],
)
def test_jurisdictions(jurisdiction: str, passes: bool) -> None:
    broken = rules(Policy(jurisdictions=("EU",)), jurisdiction=jurisdiction)
    assert broken == (set() if passes else {"jurisdictions"})


def test_a_larger_region_and_single_countries() -> None:
    assert not rules(Policy(jurisdictions=("EEA", "CH")), jurisdiction="NO")
    assert not rules(Policy(jurisdictions=("EEA", "CH")), jurisdiction="CH")


@pytest.mark.parametrize(
    ("licence", "broken"),
    [
        ("CC-BY-SA-3.0", {"share_alike"}),
        ("CC-BY-NC-SA-4.0", {"share_alike", "non_commercial"}),
        ("CC-BY-NC-4.0", {"non_commercial"}),
        ("CC-BY-ND-4.0", {"no_derivatives"}),
        ("GPL-3.0-only", {"share_alike"}),
        ("LGPL-2.1-or-later", {"share_alike"}),
        ("ODbL-1.0", {"share_alike"}),
        ("MIT OR GPL-2.0-only", set()),
        ("MIT AND GPL-2.0-only", {"share_alike"}),
        ("CC0-1.0", set()),
        ("Apache-2.0 WITH LLVM-exception", set()),
        ("unknown", {"share_alike", "non_commercial", "no_derivatives"}),
        ("NOASSERTION AND MIT", {"share_alike", "non_commercial", "no_derivatives"}),
        ("CDLA-Sharing-1.0", {"share_alike"}),
        ("CC BY SA 4.0", {"share_alike"}),
        (PER_DOCUMENT, set()),
    ],
)
def test_kinds_of_licences(licence: str, broken: set[str]) -> None:
    policy = Policy(share_alike=False, non_commercial=False, no_derivatives=False)
    assert rules(policy, licence=licence) == broken


def test_listed_licences() -> None:
    policy = Policy(licences=("MIT", "Apache-2.0"))
    assert not rules(policy, licence="(GPL-2.0-only OR MIT) AND Apache-2.0")
    assert rules(policy, licence="CC0-1.0") == rules(policy, licence="unknown") == {"licences"}


@pytest.mark.parametrize("expression", ["", "AND", "MIT AND", "(MIT", "MIT)", "OR MIT AND", "()"])
def test_a_garbled_expression_allows_nothing(expression: str) -> None:
    assert not accepts(expression, lambda part: part == "MIT")


def test_personal_data() -> None:
    assert rules(Policy(personal_data="masked"), personal_data="unknown") == {"personal_data"}
    assert not rules(Policy(personal_data="masked"), personal_data="masked")
    assert rules(Policy(personal_data="none"), personal_data="masked") == {"personal_data"}
    assert (
        personal_data_flag(None, masked=True) == "masked" and personal_data_flag(False, masked=True) == "no"
    )


def test_legal_basis_and_retention() -> None:
    assert rules(Policy(legal_basis=()), legal_basis="unknown") == {"legal_basis"}
    assert not rules(Policy(legal_basis=()), legal_basis="consent")
    assert rules(Policy(legal_basis=("public domain",)), legal_basis="consent") == {"legal_basis"}
    assert rules(Policy(), retention="2026-11-21") == {"retention"}
    assert not rules(Policy(), retention="2026-11-22")


def test_the_refusal_names_source_and_rule() -> None:
    provenance = Provenance.count([("web", "CC-BY-SA-4.0", "US", "yes"), ("own", "MIT", "DE", "no")])
    policy = Policy(jurisdictions=("EU",), share_alike=False)
    with pytest.raises(GateRefused) as refused:
        refuse(policy.breaches(provenance, TODAY), "prepare")
    said = str(refused.value)
    assert "source 'web' breaks policy.jurisdictions: it has jurisdiction 'US', allowed: EU" in said
    assert "policy.share_alike" in said and "'own'" not in said
    refuse(Policy().breaches(provenance, TODAY), "prepare")


def test_unknown_rules_are_refused() -> None:
    with pytest.raises(ConfigError, match="jurisdictions"):
        validate(Policy, {"jurisdiction": ["EU"]}, "policy")


def test_roll_ups_keep_what_each_source_says() -> None:
    first = Provenance.count([("a", "MIT", "DE", "no")] * 2).stating({"a": ("licence", "2030-01-01")})
    second = Provenance.count([("a", "MIT", "DE", "no"), ("b", "CC0-1.0", "FR", "masked")])
    both = first + second
    assert both.sources == {"a": 3, "b": 1} and both.documents == 4
    assert both.by_source["a"].bases() == {"licence": 2, "unknown": 1}
    assert both.by_source["a"].retentions() == {"2030-01-01": 2, "unknown": 1}
    assert both.licences == {"CC0-1.0": 1, "MIT": 3} and both.personal_data == {"masked": 1, "no": 3}
    assert both - second == first and (first | first) == first
    assert Provenance.model_validate(both.model_dump(mode="json")) == both
    other = Facts(documents=1, legal_basis={"consent": 1})
    assert first.by_source["a"].joined(other, max).bases() == {"consent": 1, "licence": 2}


def test_one_statement_does_not_stand_for_the_texts_of_another() -> None:
    texts = Provenance.count([("a", "MIT", "DE", "no")])
    stated = texts.stating({"a": ("consent", "indefinite")})
    other = texts.stating({"a": ("contract", "2020-01-01")})
    policy = Policy(legal_basis=("consent",))
    assert not policy.breaches(stated, TODAY)
    found = {breach.found for breach in policy.breaches(stated + other, TODAY)}
    assert found == {"legal basis 'contract'", "retention until 2020-01-01"}
    found = {breach.found for breach in policy.breaches(stated + texts, TODAY)}
    assert found == {"legal basis 'unknown'"}


def test_earlier_manifests_are_read() -> None:
    old = {"documents": 3, "licences": {"MIT": 3}, "legal_basis": "consent", "retention": "unknown"}
    facts = Facts.model_validate(old)
    assert (facts.bases(), facts.retentions()) == ({"consent": 3}, {"unknown": 3})
    assert Facts.model_validate(facts.model_dump(mode="json")) == facts


def test_a_licence_made_to_exhaust_the_stack_is_no_licence() -> None:
    assert not accepts("(" * 450 + "MIT" + ")" * 450, lambda _: True)
    assert accepts("((MIT) OR (GPL-3.0-only))", lambda name: name == "MIT")

"""A recipe's policy, from sources to later stages: refused before any work, or judged by document."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.errors import GateRefused, UserError
from modelwright.base.policy import Policy
from modelwright.base.progress import PlainView
from modelwright.cli import main
from modelwright.data.conversations.read import read_conversations, read_preferences
from modelwright.data.corpus import read_corpus
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source
from modelwright.life import Life
from modelwright.recipes.recipe import Recipe
from modelwright.stages.views import ConversationView, PairView

QUIET = PlainView(quiet=True)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    licences = ["MIT", "CC-BY-SA-4.0", None, "CC0-1.0 OR CC-BY-SA-4.0"]
    rows = [
        {"text": f"Text number {n} about one thing or another.", "license": licences[n % 4]}
        for n in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def recipe(source: dict[str, Any], policy: dict[str, Any], **sections: Any) -> Recipe:
    stages = ("prepare", *[verb for verb in ("tokenize", "pretrain", "finetune") if verb in sections])
    return Recipe(name="x", stages=stages, data={"sources": [source]}, policy=policy)


def test_what_a_source_says_is_refused_before_any_work(texts: Path, tmp_path: Path) -> None:
    source = {"path": str(texts), "name": "web", "licence": "CC-BY-SA-4.0", "jurisdiction": "US"}
    life = Life(recipe(source, {"jurisdictions": ["EU"], "share_alike": False}), tmp_path / "run", QUIET)
    with pytest.raises(GateRefused) as refused:
        life.run(["prepare"])
    said = str(refused.value)
    assert "source 'web' breaks policy.jurisdictions: it has jurisdiction 'US', allowed: EU" in said
    assert "source 'web' breaks policy.share_alike" in said
    assert not (tmp_path / "run").exists()


def test_the_command_line_exits_with_3(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--set", f"data.sources=[{texts}]", "--set", "policy.personal_data=none"]
    assert main(["prepare", "text", "-o", str(tmp_path / "run"), *given]) == 3
    assert "personal data 'unknown'" in capsys.readouterr().err


def test_documents_that_state_their_own_licence_are_judged_one_by_one(texts: Path, tmp_path: Path) -> None:
    source = {"path": str(texts), "name": "web", "licence": "per-document", "jurisdiction": "DE"}
    policy = {"jurisdictions": ["EU"], "share_alike": False}
    (made,) = Life(recipe(source, policy), tmp_path / "run", QUIET).run(["prepare"])
    kept = [d for side in ("train", "validation") for d in read_corpus(made.file(side))]
    assert {d.licence for d in kept} == {"MIT", "CC0-1.0 OR CC-BY-SA-4.0"} and len(kept) == 20
    assert made.metrics["dropped"] == {"policy: share_alike": 20}
    assert made.manifest.provenance.licences == {"CC0-1.0 OR CC-BY-SA-4.0": 10, "MIT": 10}


def test_masking_satisfies_a_policy_that_asks_for_it(texts: Path, tmp_path: Path) -> None:
    plain = recipe({"path": str(texts), "name": "web"}, {"personal_data": "masked"})
    with pytest.raises(GateRefused, match="personal data 'unknown'"):
        Life(plain, tmp_path / "a", QUIET).run(["prepare"])
    data = {**plain.data, "filters": [{"name": "privacy"}]}
    masked = plain.model_copy(update={"data": data})
    (made,) = Life(masked, tmp_path / "b", QUIET).run(["prepare"])
    assert made.manifest.provenance.personal_data == {"masked": 40}


def test_later_stages_refuse_inputs_that_learned_from_what_is_not_allowed(
    texts: Path, tmp_path: Path
) -> None:
    source = {"path": str(texts), "name": "web", "licence": "GPL-3.0-only", "legal_basis": "licence"}
    loose = recipe(source, {}, tokenize={})
    folder = tmp_path / "run"
    Life(loose, folder, QUIET).run(["prepare"])
    assert Artifact.load(folder / "prepare").manifest.provenance.by_source["web"].legal_basis == {
        "licence": 40
    }
    strict = loose.model_copy(update={"policy": {"share_alike": False}})
    with pytest.raises(
        GateRefused, match=r"tokenize: 'corpus' at .*\n.*source 'web' breaks policy.share_alike"
    ):
        Life(strict, folder, QUIET).run(["tokenize"])
    given = {"corpus": folder / "prepare"}
    with pytest.raises(GateRefused, match=r"policy.share_alike"):
        Life(strict, tmp_path / "other", QUIET, given).run(["tokenize"])
    assert not (tmp_path / "other").exists()


def test_retention_that_is_over_is_always_refused(texts: Path, tmp_path: Path) -> None:
    source = {"path": str(texts), "name": "web", "retention": "2020-01-31"}
    with pytest.raises(GateRefused, match="retention until 2020-01-31, which is over"):
        Life(recipe(source, {}), tmp_path / "run", QUIET).run(["prepare"])


def test_a_row_cannot_say_of_itself_that_it_was_masked(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "Mail me at ann@mail.org, any day.", "masked": true, "language": "en"}\n')
    source = {"path": str(path), "name": "web", "personal_data": False}
    (made,) = Life(recipe(source, {}), tmp_path / "run", QUIET).run(["prepare"])
    (document,) = list(read_corpus(made.file("train")))
    assert "masked" not in document.meta and document.meta["row_masked"] is True
    assert document.meta["row_language"] == "en"


def test_two_sources_of_one_name_state_the_same_or_are_refused(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("Another text about another thing.\n")
    web: dict[str, Any] = {"path": str(texts), "name": "web", "legal_basis": "consent"}
    for other in ({"legal_basis": "contract"}, {}, {"legal_basis": "consent", "retention": "indefinite"}):
        two = [web, {"path": str(tmp_path / "more.txt"), "name": "web", **other}]
        bad = Recipe(name="x", stages=("prepare",), data={"sources": two})
        with pytest.raises(
            UserError, match=r"have the name 'web' and state a different (legal_basis|retention)"
        ):
            Life(bad, tmp_path / "run", QUIET).run(["prepare"])
        assert not (tmp_path / "run").exists()


def test_conversations_are_judged_row_by_row(tmp_path: Path) -> None:
    licences = ["MIT", "CC-BY-SA-4.0", None, "CC0-1.0"]
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Yes."}]
    pair = {"prompt": "?", "chosen": "Yes.", "rejected": "No."}
    rows = [{"messages": turns, **pair, "licence": each} for each in licences]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sources = [Source(path=str(tmp_path / "rows.jsonl"), name="web", licence="per-document")]
    said: list[str] = []
    faults = Faults(record=lambda where, reason: said.append(f"{where}: {reason}"))
    for read in (read_conversations, read_preferences):
        found = read(sources, faults, Policy(share_alike=False))
        assert [each.meta["licence"] for each in found] == ["MIT", "CC0-1.0"]
        assert len(read(sources)) == 4
    assert faults.passed_over == {"policy: share_alike": 4}
    assert "line 2: policy: share_alike: licence 'CC-BY-SA-4.0', share-alike licences are not" in said[0]
    strict = Recipe(name="x", policy={"share_alike": False})
    for verb, config in (("finetune", ConversationView), ("align", PairView)):
        assert config.model_validate(strict.section(verb)).policy == Policy(share_alike=False)

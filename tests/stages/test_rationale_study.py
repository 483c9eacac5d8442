"""The study of rationales: costs are counted, rows verified, cells kept, and nothing is claimed too much."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.run import Run
from modelwright.base.schema import Answer, Prompt
from modelwright.environments.tasks import chains
from modelwright.stages import finetune, rationale_study
from modelwright.stages.answering import sampler_of
from modelwright.stages.rationale_findings import ARMS, Costs, Findings, Measured, in_words
from modelwright.stages.rationale_page import render
from modelwright.stages.rationale_study import ExactWriter, teach
from modelwright.tokenizer.bpe import BPETokenizer

SETTINGS: dict[str, Any] = {
    "problems": [4, 8],
    "more_answers": [12],
    "seeds": 2,
    "epochs": 1,
    "asked": 5,
    "max_tokens": 4,
    "questions": [0, 100],
    "finetune": {
        "context": 96,
        "rows": 2,
        "compute": {"dtype": "float32", "compile": "never", "device": "cpu"},
    },
}


ORDER = [(way, n) for way in rationale_study.TAUGHT for n in (4, 8, *([12] if way == "answers" else []))]


@pytest.fixture(scope="module")
def base(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "model").symlink_to(tiny_model("qwen3"))
    return Run(folder, "pretrain", "base", Config(), 1).finish(["model"]).path


def test_a_study_is_interrupted_and_goes_on(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, calls = finetune.run, list[str]()

    def counted(config: Any, run: Run) -> Artifact:
        calls.append(run.dir.name.partition("-finetune")[0])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(config, run)

    monkeypatch.setattr(finetune, "run", counted)
    chosen = rationale_study.check(SETTINGS)
    with pytest.raises(KeyboardInterrupt):
        rationale_study.study(tmp_path / "study", base, chosen, 0, sampler_of)
    made = rationale_study.study(tmp_path / "study", base, chosen, 0, sampler_of)
    kinds = [f"{way}-{n}-{seed}" for seed in (0, 1) for way, n in ORDER]
    assert calls == [*kinds[:3], *kinds[2:]]
    found = json.loads((made.path / "rationales.json").read_text())
    assert len(found["points"]) == len(ARMS) * 2 + 1 and len(found["students"]) == 2 * len(found["points"])
    costs = {(tuple(each["arm"]), each["problems"]): each["costs"] for each in found["points"]}
    for size in (4, 8):
        alone, steps, both = (
            costs[arm, size] for arm in (("answers", False), ("rationales", True), ("both", True))
        )
        assert alone["teacher tokens"] < steps["teacher tokens"]
        assert both["teacher tokens"] == alone["teacher tokens"] + steps["teacher tokens"]
        assert both["training FLOPs"] >= steps["training FLOPs"] >= alone["training FLOPs"] > 0
        assert alone["all, 100 questions"] > alone["all, 0 questions"]
    page = (made.path / "rationales.html").read_text()
    assert page.count('<svg class="plot"') == len(found["points"][0]["costs"]) and 'class="band' in page
    assert "<script" not in page and made.manifest.cost.flops > 0


class Careless:
    """A teacher that is right every other time, and once says nothing."""

    name = "careless"

    def write(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        for place, answer in ExactWriter().write(prompts):
            if place == 0:
                yield place, Answer(fault="the connection was closed")
            else:
                text = answer.text if place % 2 else "So 999"
                yield place, Answer(text=text, prompt_tokens=10, tokens=7)


def test_what_is_wrong_is_paid_for_and_not_learned(base: Path) -> None:
    tokenizer = BPETokenizer.load(base / "model")
    problems = chains.draw(0, 6, "train")
    taught = teach(Careless(), problems, (True,), tokenizer, 0)
    said = [row["messages"][1]["content"] for row in taught.rows]
    assert len(said) == 3 and all("So 999" not in each and "=" in each for each in said)
    assert taught.refused == 3 and taught.tokens > 5 * 17
    exact = teach(ExactWriter(), problems, (False, True), tokenizer, 0)
    assert len(exact.rows) == 12 and exact.refused == 0
    with pytest.raises(UserError, match="none of 1 answers of the teacher careless"):
        teach(Careless(), problems[:1], (True,), tokenizer, 0)


def findings_of(shares: dict[tuple[str, bool], list[float]]) -> Findings:
    """Students whose accuracy is given, from 100, 1000, ... problems; steps cost ten times the tokens."""
    random = np.random.default_rng(0)
    rows = [
        Measured(
            taught=arm[0],
            steps=arm[1],
            problems=100 * 10**place,
            seed=seed,
            marks=tuple(int(mark) for mark in random.random(500) < share),
            teacher_tokens=100 * 10**place * (10 if arm[0] != "answers" else 1),
            refused=0,
            training_flops=1e6 * 10**place,
            read=10,
            written=30 if arm[1] else 3,
        )
        for arm in ARMS
        for place, share in enumerate(shares[arm])
        for seed in range(3)
    ]
    return Findings(tuple(rows), Costs(10, 100, (0, 1000)), 0.95, "exact")


def test_a_saving_is_said_in_its_own_currency() -> None:
    """Steps need a tenth of the problems; the teacher writes ten times as much for each."""
    half = {arm: [0.2, 0.5] for arm in ARMS}
    findings = findings_of(half | {("rationales", True): [0.5, 0.9], ("both", False): [0.05, 0.05]})
    problems = findings.saving(("rationales", True), "problems", 1000)
    assert problems.share == pytest.approx(0.9, abs=0.05)
    tokens = findings.saving(("rationales", True), "teacher tokens", 1000)
    assert tokens.share == pytest.approx(0, abs=0.5) and tokens.high < 0.9
    answer = findings.saving(("rationales", True), "tokens of an answer", 1000)
    assert answer.share == pytest.approx(1 - 30 / 3)
    assert "not reached" in in_words(findings.saving(("both", False), "problems", 1000))
    sums = findings.points[0].costs
    assert sums["all, 1,000 questions"] == sums["all, 0 questions"] + 1000 * 2 * 10 * 13
    assert sums["all, 0 questions"] == 1e6 + 2 * 100 * 100
    sentences = list(findings.sentences())
    assert any(each.startswith("As often right by rationales") and "saved" in each for each in sentences)
    assert any("both, asked for the result: not with up to 1,000 problems" in each for each in sentences)
    page = render(findings)
    shown = [
        in_words(saving).partition(",")[0] for _, size, _, saving in findings.savings if size in findings.told
    ]
    assert shown and all(escape(each) in page for each in shown) and "less than 90 %" in page
    json.dumps(findings.as_json(), allow_nan=False)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"seeds": 1}, {"problems": []}, {"terms": 1}, {"teacher_times": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            rationale_study.check({**SETTINGS, **wrong})

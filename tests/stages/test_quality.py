"""Learning a quality model from two folders, looking at its page, and using it as a filter."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from modelwright.base.progress import PlainView
from modelwright.cli import main
from modelwright.data.corpus import read_corpus
from modelwright.life import Life
from modelwright.recipes.recipe import Recipe
from modelwright.stages import prepare


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    dice = random.Random(1)
    words = {"good": ["careful", "theory", "explains", "evidence"], "bad": ["click", "buy", "now", "offer"]}
    shared = ["the", "and", "of", "a", "to", "it", "was", "in", "for", "with"]
    for kind, own in words.items():
        (tmp_path / kind).mkdir()
        for number in range(120):
            body = " ".join(dice.choices(own, k=6) + dice.choices(shared, k=30))
            (tmp_path / kind / f"{number}.txt").write_text(f"{body} {number}")
    return tmp_path


def test_from_two_folders_to_a_filter(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = texts / "model"
    assert main(["quality", str(texts / "good"), str(texts / "bad"), "-o", str(out), "-q"]) == 0
    said = capsys.readouterr().out
    assert "AUC on held-out text: 1.0000" in said and "120 good, 120 ordinary" in said
    page = (out / "report.html").read_text()
    assert page.count("<svg") >= 2 and "ROC" in page and "<script" not in page
    filters = [{"name": "quality", "model": str(out / "quality.safetensors"), "min_score": 0.5}]
    recipe = Recipe(
        name="x", stages=("prepare",), data={"sources": [str(texts / "good"), str(texts / "bad")]}
    )
    recipe = recipe.model_copy(update={"data": {**recipe.data, "filters": filters}})
    (made,) = Life(recipe, texts / "run", PlainView(quiet=True)).run(["prepare"])
    kept = [d for side in ("train", "validation") for d in read_corpus(made.file(side))]
    assert {d.source for d in kept} == {str(texts / "good")} and len(kept) == 120
    assert all(d.meta["quality"] >= 0.5 for d in kept)


def test_another_model_at_the_same_path_is_another_corpus(texts: Path) -> None:
    out = texts / "model"
    marks: set[str] = set()
    for most in ("60", "100"):
        main(["quality", str(texts / "good"), str(texts / "bad"), "-o", str(out), "--max-documents", most])
        filters = [{"name": "quality", "model": str(out / "quality.safetensors")}]
        config = prepare.Config.model_validate({"sources": [str(texts / "bad")], "filters": filters})
        marks.add(prepare.sources(config))
    assert len(marks) == 2


def test_too_little_text_is_refused(texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = texts / "few"
    few.mkdir()
    (few / "one.txt").write_text("one text")
    assert main(["quality", str(texts / "good"), str(few), "-o", str(texts / "model"), "-q"]) == 1
    assert "50" in capsys.readouterr().err and not (texts / "model").exists()

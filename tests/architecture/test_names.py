"""One journey, one word per stage: the same verbs in code, on the command line and in the docs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modelwright.base.config import Config
from modelwright.life.inputs import used_by
from modelwright.life.loading import stage_module
from modelwright.recipes.stations import STATIONS, VERBS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("verb", VERBS)
def test_a_stage_is_a_config_its_inputs_and_run(verb: str) -> None:
    stage = stage_module(verb)
    assert issubclass(stage.Config, Config)
    stage.Config()  # every setting has a default
    known = {"model", "models", *(station.role for station in STATIONS)}
    assert set(used_by(stage)) <= known
    assert callable(stage.run)


@pytest.mark.parametrize("verb", VERBS)
def test_every_setting_says_what_it_is(verb: str) -> None:
    config = stage_module(verb).Config
    assert [name for name, field in config.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("verb", [*VERBS, "serve"])
def test_a_verb_has_a_chapter_and_a_command(verb: str) -> None:
    chapter = (ROOT / "docs" / f"{verb}.md").read_text(encoding="utf-8")
    assert chapter.startswith(f"# {verb}")
    assert f"`{verb}`" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_lists_the_verbs_in_order() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    places = [readme.index(f"| `{verb}` |") for verb in VERBS]
    assert places == sorted(places)


def test_help_answers_at_once() -> None:
    """`--help` must not load torch, pydantic or the stages (design/0002); the clock is only a backstop."""
    script = """
import sys, time
start = time.perf_counter()
from modelwright.cli import main
code = main(["--help"])
heavy = {"torch", "numpy", "pydantic", "transformers", "pyarrow", "modelwright.life"} & set(sys.modules)
print(code, sorted(heavy), time.perf_counter() - start < 5, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.split("\n")[0] == "0 [] True"
    assert all(verb in done.stdout for verb in VERBS)

"""The docs are true: every recipe in them is valid, every file and link that they name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from modelwright.base.config import validate
from modelwright.life import stage_config
from modelwright.recipes.recipe import Recipe
from modelwright.recipes.stations import STATIONS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("design/*.md")])
SOURCE = ROOT / "src" / "modelwright"
SNIPPETS = [
    (page.name, text)
    for page in PAGES
    for text in re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
]


@pytest.mark.parametrize(("page", "text"), SNIPPETS, ids=[f"{page}" for page, _ in SNIPPETS])
def test_every_recipe_in_the_docs_is_valid(page: str, text: str) -> None:
    settings = yaml.safe_load(text)
    settings.pop("extends", None)
    recipe = validate(Recipe, {"name": page} | settings, page)
    for station in STATIONS:
        if recipe.section(station.verb):
            stage_config(recipe, station.verb)


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_code_that_is_named_exists(page: Path) -> None:
    if page.name == "extending.md":
        pytest.skip("it names the files that the reader will write")
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)[`:]", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (SOURCE / name).exists() and not (ROOT / name).exists()] == []

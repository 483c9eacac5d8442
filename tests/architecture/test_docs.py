"""The docs are true: every recipe in them is valid, every file and link that they name is there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from modelwright.base.config import validate
from modelwright.data.synthesis import answers, growth, personas, rationales, requests, rewriting
from modelwright.data.synthesis.record import PriceConfig
from modelwright.environments.rejection import VerifyConfig
from modelwright.life import stage_config
from modelwright.recipes.recipe import Recipe
from modelwright.recipes.stations import STATIONS
from modelwright.stages import screening, synthesize, writing

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


SETTINGS: dict[str, type[BaseModel]] = {
    "": synthesize.Config,
    "sampling": writing.SamplingConfig,
    "price": PriceConfig,
    "verify": VerifyConfig,
    "rows": screening.RowsConfig,
    "judge": screening.JudgeConfig,
    "writer, a model here": writing.LocalWriter,
    "writer, an endpoint": writing.EndpointWriter,
    "method: answers": answers.AnswersConfig,
    "method: rationales": rationales.RationalesConfig,
    "method: grow": growth.GrowConfig,
    "method: rewrite": rewriting.RewriteConfig,
    "method: personas": personas.PersonasConfig,
    "requests": requests.RequestRules,
}
"""What the table of settings in docs/synthesize.md calls a group -> where its settings are."""


def test_the_table_of_settings_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "synthesize.md").read_text(encoding="utf-8")
    table = re.findall(
        r"^\| ([^|]*?) ?\| `(\w+)` \| ([^|]*?) ?\|", page.split("## Settings")[1], re.MULTILINE
    )
    said: dict[str, dict[str, str]] = {group: {} for group in SETTINGS}
    for group, name, default in table:
        said[group][name] = default
    for group, config in SETTINGS.items():
        fields = {name: each for name, each in config.model_fields.items() if name != "kind"}
        assert said[group].keys() == fields.keys(), group
        known: dict[str, Any] = {n: f.get_default(call_default_factory=True) for n, f in fields.items()}
        for name, default in said[group].items():
            if default.startswith("`") and name not in ("sources", "policy", "method"):
                assert yaml.safe_load(default.strip("`")) == to_jsonable_python(known[name]), (group, name)

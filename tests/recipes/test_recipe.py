"""Recipes: where settings come from, which one wins, and what a typing error is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modelwright.base.errors import ConfigError
from modelwright.life import stage_config
from modelwright.recipes.recipe import Recipe, load_recipe, parse_inputs, run_directory, shipped
from modelwright.recipes.stations import STATIONS, VERBS, WHOLE_LIFE


def test_every_shipped_recipe_loads_and_says_what_it_is_for() -> None:
    assert shipped()[0] == "quickstart"
    for name in shipped():
        recipe = load_recipe(name, environment={})
        assert recipe.name == name
        assert recipe.about


def test_every_station_has_a_section() -> None:
    assert {station.section for station in STATIONS} | {"model"} == set(Recipe(name="x").model_dump()) - {
        "name",
        "about",
        "seed",
        "stages",
        "policy",
    }


def test_the_command_line_wins_over_environment_over_recipe_over_what_it_extends(tmp_path: Path) -> None:
    lower, upper = tmp_path / "lower.yaml", tmp_path / "upper.yaml"
    lower.write_text("pretrain: {a: lower, b: lower, c: lower, d: lower}")
    upper.write_text(f"extends: {lower}\npretrain: {{b: upper, c: upper, d: upper}}")
    environment = {
        "MODELWRIGHT__PRETRAIN__C": "environment",
        "MODELWRIGHT__PRETRAIN__D": "environment",
        "HOME": "/",
    }
    recipe = load_recipe(str(upper), ["pretrain.d=[1, line]"], environment)
    assert recipe.pretrain == {"a": "lower", "b": "upper", "c": "environment", "d": [1, "line"]}
    assert recipe.name == "upper"


def test_the_model_dial_reaches_pretrain() -> None:
    recipe = Recipe(name="x", model={"depth": 3}, pretrain={"steps": 2, "model": {"architecture": "llama"}})
    assert recipe.section("pretrain") == {"steps": 2, "model": {"depth": 3, "architecture": "llama"}}
    assert recipe.section("finetune") == {}


def test_a_resolved_recipe_stands_alone(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", ["model.depth=2"], {})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert load_recipe(str(tmp_path), environment={}) == recipe
    assert "extends" not in yaml.safe_load(recipe.to_yaml())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pretrian: {}", r"pretrian: unknown setting\. Did you mean 'pretrain'\?"),
        ("stages: [prepare, tokenise]", r"there is no station 'tokenise'\. Did you mean 'tokenize'\?"),
        ("stages: [tokenize, prepare]", "must follow the order of a life"),
        ("stages: prepare", r"stages: expected a list, e\.g\. \[prepare\] \(received 'prepare'\)"),
        ("stages: {a: b}", r"stages: expected a list, e\.g\. \[\.\.\.\]"),
        ("data: atlas", r"data: expected a mapping of settings, \{name: value, \.\.\.\}"),
        ("stages: [pretrain, import]", "begins with text .* or with a model .*, not both"),
        ("imprt: {}", r"imprt: unknown setting\. Did you mean 'import'\?"),
        ("stages: []", "must follow the order of a life"),
        ("seed: one", "seed: Input should be a valid integer"),
        ("[1, 2]", "holds a list, expected a mapping"),
        ("a: [", "not valid YAML"),
        ("colour: 1", r"colour: unknown setting\. Known: about, "),
        ("extends: nobody", "there is no recipe 'nobody'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(str(file), environment={})


@pytest.mark.parametrize(
    ("verb", "settings", "message"),
    [
        (
            "synthesize",
            {"writer": {"modle": "x"}},
            r" writer\.modle: unknown setting\. Did you mean 'model'\?",
        ),
        (
            "synthesize",
            {"judge": {"writer": {"url": "http://a/v1", "kee_from": "K"}}},
            r" judge\.writer\.kee_from: unknown setting\. Did you mean 'key_from'\?",
        ),
        (
            "synthesize",
            {"sources": [{"pth": "a"}]},
            r" sources\.0\.pth: unknown setting\. Did you mean 'path'",
        ),
        (
            "synthesize",
            {"method": {"kind": "answers", "lern": 1}},
            r" method\.lern: .* Known: kind, system\.",
        ),
        (
            "synthesize",
            {"method": "anwsers"},
            r" method: should be one of 'answers', .*\(received 'anwsers'\)",
        ),
        ("synthesize", {"method": {"knd": "grow"}}, r" method: 'kind' is missing"),
        ("finetune", {"adapter": {"kind": "lora", "rnk": 3}}, r" adapter\.rnk: .* Did you mean 'rank'"),
    ],
)
def test_a_mistake_deep_in_a_station_has_the_path_that_was_written(
    verb: str, settings: dict[str, Any], message: str
) -> None:
    recipe = load_recipe("synthesize", environment={}).model_copy(update={verb: settings})
    with pytest.raises(ConfigError, match=message):
        stage_config(recipe, verb)


def test_an_unknown_recipe_suggests_a_near_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'quickstart'"):
        load_recipe("quikstart")


def test_inputs_by_role() -> None:
    assert parse_inputs(["model=a/b", "tokens=c"]) == {"model": Path("a/b"), "tokens": Path("c")}
    with pytest.raises(ConfigError, match=r"expected role=PATH\. Did you mean 'tokens'"):
        parse_inputs(["token=c"])


def test_the_default_run_directory(tmp_path: Path) -> None:
    recipe = load_recipe("quickstart", environment={})
    assert run_directory("quickstart", recipe) == Path("runs/quickstart")
    assert run_directory(str(tmp_path), recipe) == tmp_path
    assert run_directory(str(tmp_path / "recipe.yaml"), recipe) == tmp_path


def test_a_life_begins_with_text_or_with_a_model() -> None:
    recipe = load_recipe("tiny", environment={})
    assert recipe.stages == WHOLE_LIFE and "import" not in WHOLE_LIFE
    imported = recipe.importing("org/name")
    assert imported.stages == ("import", *WHOLE_LIFE[3:])
    assert imported.section("import") == {"model": "org/name"}
    assert imported.section("finetune") == recipe.section("finetune")
    again = Recipe.model_validate(yaml.safe_load(imported.to_yaml()))
    assert again == imported, "the section's name in YAML is that of its verb"
    assert imported.importing("other/name").stages == imported.stages


def test_verbs_are_in_the_order_of_a_life() -> None:
    assert VERBS[0] == "prepare"
    assert VERBS[-1] == "export"


@pytest.mark.parametrize("name", [name for name in shipped() if name.startswith("finetune-")])
def test_the_recipes_for_fine_tuning_are_valid_to_the_last_setting(name: str) -> None:
    recipe = load_recipe(name, environment={})
    configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
    assert [*configs] == ["import", "finetune", "evaluate", "compress", "export"]
    assert not configs["finetune"].sources[0].is_atlas, "it teaches the user's own rows"

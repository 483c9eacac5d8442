"""Configuration: frozen, strict, and helpful about typing errors.

Every stage's settings are a `Config`. A recipe is YAML; it may extend another recipe, and single
values are overridden by `path=value`. Values later in this list win: the code's defaults, the
extended recipe, the recipe, the environment, the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Tag, ValidationError

from modelwright.base.errors import ConfigError, did_you_mean


class Config(BaseModel):
    """Base of all settings: frozen, no unknown keys, docstrings under fields become descriptions."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
    )


EXPECTED = dict.fromkeys(("tuple_type", "list_type"), "expected a list, e.g. [{}]") | dict.fromkeys(
    ("dict_type", "mapping_type", "model_type"), "expected a mapping of settings, {{name: value, ...}}"
)
"""pydantic's kinds of mistakes in the words of a recipe."""

Settings = dict[str, Any]
C = TypeVar("C", bound=Config)


def parse_overrides(assignments: Sequence[str]) -> Settings:
    """`["model.depth=8", "data.sources=[a/]"]` -> nested settings. Values are read as YAML."""
    settings: Settings = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"--set got '{assignment}', expected path=value, e.g. --set model.depth=8")
        try:
            value: Any = yaml.safe_load(text) if text else ""
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {path}: '{text}' is not valid YAML: {error}") from error
        keys = path.strip().split(".")
        for key in reversed(keys):
            value = {key: value}
        settings = merge(settings, cast(Settings, value))
    return settings


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Settings:
    """`upper` over `lower`, mapping by mapping; lists and scalars are replaced whole."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = merge(cast(Settings, below), cast(Settings, value))
        else:
            merged[key] = value
    return merged


def read_recipe(name: str, read: Callable[[str], str], seen: tuple[str, ...] = ()) -> Settings:
    """The settings of a recipe with its `extends:` chain resolved.

    `read` turns a name into YAML text (a shipped recipe or a file), so this floor needs no paths.
    """
    if name in seen:
        raise ConfigError(f"recipes extend each other in a circle: {' -> '.join([*seen, name])}")
    try:
        loaded: Any = yaml.safe_load(read(name))
    except yaml.YAMLError as error:
        raise ConfigError(f"recipe '{name}' is not valid YAML: {error}") from error
    if loaded is None:
        loaded = {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"recipe '{name}' holds a {type(loaded).__name__}, expected a mapping of settings")
    settings = cast(Settings, loaded)
    base = settings.pop("extends", None)
    if base is None:
        return settings
    return merge(read_recipe(str(base), read, (*seen, name)), settings)


def validate(kind: type[C], settings: Mapping[str, Any], where: str) -> C:
    """Settings -> `kind`, or a `ConfigError` that names each wrong key and what was expected."""
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        lines = [_explain(kind, item) for item in cast(list[dict[str, Any]], error.errors())]
        raise ConfigError(f"{where} is not valid:\n" + "\n".join(f"  {line}" for line in lines)) from error


def _explain(kind: type[Config], item: Mapping[str, Any]) -> str:
    place, known = _written(kind, item["loc"])
    path = ".".join(place)
    if item["type"] == "extra_forbidden":
        return f"{path}: unknown setting.{did_you_mean(place[-1], known)}"
    if item["type"] == "union_tag_invalid":
        context = item["ctx"]
        return f"{path}: should be one of {context['expected_tags']} (received '{context['tag']}')"
    if item["type"] == "union_tag_not_found":
        named = item["ctx"]["discriminator"]
        return f"{path}: {named} is missing, which says what is meant (received {item['input']!r})"
    expected = EXPECTED.get(item["type"])
    said = expected.format(_example(item["input"])) if expected else item["msg"]
    if not place:  # of the settings together: what was received is all of them
        return said.removeprefix("Value error, ")
    return f"{path}: {said} (received {item['input']!r})"


def _example(value: Any) -> str:
    """A value as it would stand in a list."""
    return str(value) if isinstance(value, str | int | float) and value != "" else "..."


def _written(kind: type[BaseModel], path: Sequence[str | int]) -> tuple[list[str], list[str]]:
    """(the path as a recipe has it, names of the settings beside its last part). pydantic puts the label of
    what it chose among several types into a path, which nobody has written; names are empty where the path
    leaves the typed part."""
    place: list[str] = []
    beside: list[str] = []
    here: Any = kind
    for part in map(str, path):
        choices = _choices(here)
        labelled = [each for each in choices if part in _labels(each)] if len(choices) > 1 else []
        if labelled:
            here = labelled[0]
            continue
        place.append(part)
        fields = _fields(choices[0]) if len(choices) == 1 else {}
        beside, here = list(fields), fields.get(part) or _item(choices)
    return place, beside


def _choices(annotation: Any) -> list[Any]:
    """The types that a value may have besides None."""
    bare = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
    if get_origin(bare) in (Union, UnionType):
        return [each for each in get_args(bare) if each is not NoneType]
    return [bare]


def _labels(choice: Any) -> set[str]:
    """By what pydantic calls a type among several: its tag, or the one word that a setting of it can have."""
    tags = {each.tag for each in get_args(choice)[1:] if isinstance(each, Tag)}
    words = [get_args(field) for field in _fields(choice).values()]
    return tags | {each[0] for each in words if len(each) == 1 and isinstance(each[0], str)}


def _fields(choice: Any) -> dict[str, Any]:
    """Setting -> its type, of a group of settings; empty for any other type."""
    bare = _choices(choice)[0]
    if not (isinstance(bare, type) and issubclass(bare, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in bare.model_fields.items()}


def _item(choices: Sequence[Any]) -> Any:
    """The type of what a list or a mapping holds; None for any other."""
    return (get_args(choices[0]) or (None,))[-1 if get_origin(choices[0]) is dict else 0]


def trains(config: Config) -> bool:
    """Whether these are the settings of a station that trains: they say how weights are changed."""
    return hasattr(config, "optimizer")


def writes(config: Config) -> bool:
    """Whether these are the settings of a station in which a model writes rows: they say who does."""
    return hasattr(config, "writer")

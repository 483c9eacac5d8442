"""Configuration: frozen, strict, and helpful about typing errors.

Every stage's settings are a `Config`. A recipe is YAML; it may extend another recipe, and single
values are overridden by `path=value`. Values later in this list win: the code's defaults, the
extended recipe, the recipe, the environment, the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

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
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _fields_at(kind, item["loc"][:-1])
        return f"{path}: unknown setting.{did_you_mean(str(item['loc'][-1]), known)}"
    expected = EXPECTED.get(item["type"])
    said = expected.format(_example(item["input"])) if expected else item["msg"]
    return f"{path}: {said} (received {item['input']!r})"


def _example(value: Any) -> str:
    """A value as it would stand in a list."""
    return str(value) if isinstance(value, str | int | float) and value != "" else "..."


def _fields_at(kind: type[BaseModel], path: Sequence[str | int]) -> list[str]:
    """Names of the settings at `path` inside `kind`; empty when the path leaves the typed part."""
    for part in path:
        field: FieldInfo | None = kind.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        kind = annotation
    return [field.alias or name for name, field in kind.model_fields.items()]


def trains(config: Config) -> bool:
    """Whether these are the settings of a station that trains: they say how weights are changed."""
    return hasattr(config, "optimizer")

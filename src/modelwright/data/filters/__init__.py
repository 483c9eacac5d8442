"""Filters by name. To add one, add one file to this folder; its name is the filter's name.

The file holds two things: `Config`, the filter's settings with defaults, and `step(config)`, which
returns a Step: documents in, documents out, `drop(document, Reason(rule, value))` for those that go. A recipe
uses it as

    data:
      filters:
        - {name: length, min_characters: 200}
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from modelwright.base.config import validate
from modelwright.base.errors import ConfigError, did_you_mean
from modelwright.base.seams import Step


def names() -> list[str]:
    """Every filter there is."""
    return sorted(module.name for module in iter_modules(__path__))


def build(settings: Mapping[str, Any]) -> tuple[str, Step]:
    """`{"name": "length", "min_characters": 200}` -> the filter's name and its Step."""
    name = settings.get("name")
    if not isinstance(name, str) or name not in names():
        received = f"'{name}'" if name else f"settings without a name: {dict(settings)}"
        raise ConfigError(f"data.filters: no filter {received}.{did_you_mean(str(name), names())}")
    module = import_module(f"{__name__}.{name}")
    rest = {key: value for key, value in settings.items() if key != "name"}
    return name, module.step(validate(module.Config, rest, f"filter '{name}'"))

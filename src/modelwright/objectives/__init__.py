"""Pure losses, by name. A training method is one of these plus a view of the data.

To add one, add one file to this folder; its name is the objective's name. The file holds `Config`, its
settings with defaults, and `objective(config)`, which returns an Objective (base/seams.py). A recipe
uses it as

    align:
      objective: {name: preference, beta: 0.2}
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from modelwright.base.config import validate
from modelwright.base.errors import ConfigError, did_you_mean
from modelwright.base.seams import Objective


def names() -> list[str]:
    """Every objective there is."""
    return sorted(module.name for module in iter_modules(__path__))


def build(settings: Mapping[str, Any]) -> Objective:
    """`{"name": "preference", "beta": 0.2}` -> the objective."""
    name = settings.get("name")
    if not isinstance(name, str) or name not in names():
        received = f"'{name}'" if name else f"settings without a name: {dict(settings)}"
        raise ConfigError(f"there is no objective {received}.{did_you_mean(str(name), names())}")
    module = import_module(f"{__name__}.{name}")
    rest = {key: value for key, value in settings.items() if key != "name"}
    return module.objective(validate(module.Config, rest, f"objective '{name}'"))

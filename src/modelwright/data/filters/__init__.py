"""Filters by name. To add one, add one file to this folder; its name is the filter's name.

The file holds two things: `Config`, the filter's settings with defaults, and `step(config)`, which
returns a Step: documents in, documents out, `drop(document, Reason(rule, value))` for those that go. A recipe
uses it as

    data:
      filters:
        - {name: length, min_characters: 200}
        - {name: gopher_quality, only: {languages: [en]}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from modelwright.base.config import Config, validate
from modelwright.base.errors import ConfigError, did_you_mean
from modelwright.base.schema import Document
from modelwright.base.seams import Drop, Step


class Only(Config):
    """Which documents a filter looks at; the others pass it by."""

    sources: tuple[str, ...] | None = None
    """Names or patterns of sources: [novels, "web-*"]."""
    languages: tuple[str, ...] | None = None
    """As the filter `language`, which comes before, has found them."""

    def __call__(self, document: Document) -> bool:
        """Whether the filter looks at this one."""
        named = self.sources is None or any(fnmatchcase(document.source, p) for p in self.sources)
        return named and (self.languages is None or document.meta.get("language") in self.languages)


def names() -> list[str]:
    """Every filter there is."""
    return sorted(module.name for module in iter_modules(__path__))


def build(settings: Mapping[str, Any]) -> tuple[str, Step]:
    """`{"name": "length", "min_characters": 200}` -> the filter's name and its Step."""
    name, module, config, only = check(settings)
    step: Step = module.step(config)
    return name, step if only is None else _restricted(step, only)


def check(settings: Mapping[str, Any]) -> tuple[str, Any, Config, Only | None]:
    """The filter's name, module, settings and restriction, not yet built; `ConfigError` for mistakes."""
    name = settings.get("name")
    if not isinstance(name, str) or name not in names():
        received = f"'{name}'" if name else f"settings without a name: {dict(settings)}"
        raise ConfigError(f"data.filters: no filter {received}.{did_you_mean(str(name), names())}")
    module = import_module(f"{__name__}.{name}")
    rest = {key: value for key, value in settings.items() if key not in ("name", "only")}
    config = validate(module.Config, rest, f"filter '{name}'")
    only = validate(Only, settings["only"], f"'only' of filter '{name}'") if "only" in settings else None
    return name, module, config, only


def _restricted(step: Step, only: Only) -> Step:
    """The step for some documents; all keep their order."""

    def restricted(documents: Iterator[Document], drop: Drop) -> Iterator[Document]:
        for document in documents:
            if only(document):
                yield from step(iter((document,)), drop)
            else:
                yield document

    return restricted

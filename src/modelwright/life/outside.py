"""What stations read from outside the run directory, looked for before the first of them works.

A stage says what it needs by `sources(config)`, which opens what it would read, and by `check(config)`, which
raises where something else is missing: a model's folder, a key, a suite of that name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST
from modelwright.base.config import Config
from modelwright.life import loading


def check(configs: Mapping[str, Config], folder: Path, *, force: bool = False) -> None:
    """Raise UserError where a station, verb -> settings, lacks something. What reads from a station before it
    is left to its turn, and what is finished may need nothing any more."""
    later = waiting(configs, folder)
    for verb, config in configs.items():
        if verb in later or (not force and (folder / verb / MANIFEST).is_file()):
            continue
        stage = loading.stage_module(verb)
        for looks in ("check", "sources"):
            if hasattr(stage, looks):
                getattr(stage, looks)(config)


def waiting(configs: Mapping[str, Config], folder: Path) -> set[str]:
    """The stations whose settings name a path that an earlier one of them will make in `folder`."""
    here = Path(os.path.abspath(folder))
    found: set[str] = set()
    made: set[str] = set()
    for verb, config in configs.items():
        named = (path for path in _paths(config.model_dump()) if path.is_relative_to(here))
        below = [path.relative_to(here).parts for path in named]
        if made and any(not parts or parts[0] in made for parts in below):
            found.add(verb)
        made.add(verb)
    return found


def _paths(value: Any) -> Iterator[Path]:
    """Every text among settings, as the path that it would be."""
    if isinstance(value, Mapping):
        for each in value.values():
            yield from _paths(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _paths(each)
    elif value and isinstance(value, str | Path):
        yield Path(os.path.abspath(os.path.expanduser(value)))

"""What would make a station refuse, looked for before the first of them works.

A stage says it by up to four functions, each of which raises UserError:

    check(config)                 what its settings ask for is missing outside the run directory (a model's
                                  folder, a key, a suite of that name), or cannot be
    sources(config)               opens what it would read there
    check_line(config, stations)  its settings do not go with those of the stations before it, by verb
    check_here(config)            this machine, or the processes that were started on it, cannot do it

A forecast for another machine asks the first three.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from modelwright.base.artifact import MANIFEST
from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.files import read_json
from modelwright.life import loading


def check(
    configs: Mapping[str, Config],
    folder: Path,
    *,
    force: bool = False,
    in_line: bool = True,
    here: bool = True,
) -> None:
    """Raise UserError where a station, verb -> settings, would refuse to work.

    What reads from a station before it is left to its turn. What is finished with these settings, as is all
    before it, may need nothing any more. `in_line`: each station's inputs come from those before it. `here`:
    they are to work on this machine, now.
    """
    later = waiting(configs, folder)
    works = force
    before: dict[str, Config] = {}
    for verb, config in configs.items():
        works = works or not _is_made(folder / verb, config)
        if works:
            stage = loading.stage_module(verb)
            asked: dict[str, tuple[Any, ...]] = {} if verb in later else {"check": (), "sources": ()}
            asked |= {"check_line": (before,)} if in_line else {}
            asked |= {"check_here": ()} if here else {}
            for name, given in asked.items():
                if hasattr(stage, name):
                    getattr(stage, name)(config, *given)
        before[verb] = config


def _is_made(folder: Path, config: Config) -> bool:
    """Whether a station's folder is finished, and was made with these settings."""
    try:
        made = read_json(folder / MANIFEST) if (folder / MANIFEST).is_file() else None
    except UserError:  # damaged: it is made again
        return False
    return isinstance(made, dict) and made.get("config") == config.model_dump(mode="json")


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

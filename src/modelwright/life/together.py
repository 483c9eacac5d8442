"""One life in several processes (torchrun): the first lives it, the others follow where they are needed.

Stations that train say `TOGETHER = True`; all processes run those, with the same settings and inputs. Any
other station runs on the first process alone, and the others wait. The run directory is in a file system that
all of them see. The first process locks, logs and writes; see base/world.py and base/following.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.following import FollowingRun
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.base.world import join
from modelwright.life import loading
from modelwright.life.life import Life
from modelwright.recipes.recipe import RECIPE_FILE, load_recipe
from modelwright.recipes.stations import STATION


class LeadingLife(Life):
    """The first process: a life as usual that calls the others to the stations that train."""

    alone = False

    def run(self, verbs: Sequence[str], *, force: bool = False) -> list[Artifact]:
        """Live these stations; at the end, well or not, the others are let go."""
        try:
            return super().run(verbs, force=force)
        finally:
            join().tell(None)

    def _station(self, verb: str, stage: ModuleType, config: Config, force: bool) -> Artifact:
        together: Any = _Announced(verb, stage) if getattr(stage, "TOGETHER", False) else stage
        return super()._station(verb, together, config, force)


class _Announced:
    """A stage that says to the other processes that it begins."""

    def __init__(self, verb: str, stage: ModuleType) -> None:
        self._verb, self._stage = verb, stage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def run(self, config: Config, run: Run) -> Artifact:
        join().tell(self._verb)
        return self._stage.run(config, run)


class FollowingLife(Life):
    """Any other process: waits until it is called, computes, and waits again."""

    def run(self, verbs: Sequence[str], *, force: bool = False) -> list[Artifact]:
        """Follow until the first process is done; what was made is known to that one."""
        while (verb := join().tell()) is not None:
            self.recipe = load_recipe(
                str(self.folder / RECIPE_FILE), environment={}
            )  # as the first edited it
            stage, config = loading.stage_module(verb), loading.stage_config(self.recipe, verb)
            seed, inputs = derive(self.recipe.seed, verb), self._inputs(verb, stage)
            run = FollowingRun(self.folder / verb, verb, STATION[verb].role, config, seed, inputs)
            stage.run(config, run)
        return []

    def finish(self) -> None:
        """The first process does."""


def kind_of_life() -> type[Life]:
    """How this process lives a recipe."""
    world = join()
    if world.size == 1:
        return Life
    return LeadingLife if world.is_first else FollowingLife

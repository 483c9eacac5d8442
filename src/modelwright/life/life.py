"""A recipe lived in a run directory, one folder per station.

A station whose settings and inputs are unchanged and whose files are intact is skipped. One that was
interrupted goes on from its last checkpoint. Nothing is thrown away: what a changed setting makes
obsolete moves to `replaced/`.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from modelwright.base.artifact import BEGAN, MANIFEST, STARTED, Artifact
from modelwright.base.config import Config, merge, validate
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import write_json, write_text
from modelwright.base.policy import Policy, refuse
from modelwright.base.progress import View
from modelwright.base.resources import forget_peak, return_unused_memory
from modelwright.base.room import saying_when_full
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.life import loading, outside, planning
from modelwright.life.folder import (
    REPLACED,
    check_forgotten,
    has_work,
    instead_of,
    is_unfinished,
    locked,
    nothing_left_behind,
    read_mark,
    started_mark,
)
from modelwright.life.inputs import MODEL_ROLES, is_outside, load_given, select, used_by
from modelwright.recipes.recipe import RECIPE_FILE, Recipe, load_recipe
from modelwright.recipes.stations import IMPORT, STATION, VERBS

SEARCHED = "finetune"
"""The station whose learning rate and rank can be searched for."""


class Life:
    """A recipe, the directory it is lived in, and who watches."""

    alone = True
    """Whether one process holds the model that a station trains, and can let it answer meanwhile."""

    def __init__(
        self, recipe: Recipe, folder: Path, view: View, given: Mapping[str, Path] | None = None
    ) -> None:
        """`given` names inputs by hand, role -> stage folder; they win over the run directory's. A model that
        no stage has made is imported first: the life begins with it."""
        named = dict(given or {})
        outside = named.pop("model") if is_outside(named.get("model")) else None
        self.recipe = recipe.importing(str(outside)) if outside else recipe
        self.folder, self.view = Path(folder), view
        self.begins_with = (IMPORT,) if outside else ()
        self.searches = False
        """Whether a fine-tuning is preceded by a search for its learning rate and rank."""
        self._waiting: set[str] = set()
        """Stations whose settings name what an earlier one will make here."""
        self.given = {role: load_given(role, path) for role, path in named.items()}
        self.policy = validate(Policy, recipe.policy, f"section 'policy' of recipe '{recipe.name}'")

    def between(self, start: str | None = None, until: str | None = None) -> tuple[str, ...]:
        """The recipe's stations from `start` to `until`, both included."""
        verbs = self.recipe.stages
        for verb in (start, until):
            if verb is not None and verb not in verbs:
                known = ", ".join(verbs)
                raise ConfigError(f"recipe '{self.recipe.name}' has no station '{verb}', only {known}")
        first = verbs.index(start) if start else 0
        last = verbs.index(until) if until else len(verbs) - 1
        if first > last:
            raise ConfigError(f"'{start}' comes after '{until}': there is nothing between them")
        return verbs[first : last + 1]

    def run(self, verbs: Sequence[str], *, force: bool = False) -> list[Artifact]:
        """Live these stations. Every setting is checked, and every input found, before any work."""
        verbs = tuple(dict.fromkeys((*self.begins_with, *verbs)))
        stages = {verb: loading.stage_module(verb) for verb in verbs}
        configs = {verb: loading.stage_config(self.recipe, verb) for verb in verbs}
        with nothing_left_behind(self.folder), locked(self.folder):
            check_forgotten(self.folder)
            self._stay_forgotten(configs)
            self._check_inputs(stages)
            searched = {"search": configs[SEARCHED]} if self.searches and SEARCHED in configs else {}
            outside.check(configs | searched, self.folder, force=force, in_line=not self.given)
            self._check_policy(stages, configs)
            write_text(self.folder / RECIPE_FILE, self.recipe.to_yaml())
            if note := loading.taught_from_atlas(self.recipe, configs):
                self.view.log(note)
            return [self._station(verb, stages[verb], configs[verb], force) for verb in verbs]

    def finish(self) -> None:
        """Write the report, and say what can be done now with what there is."""
        here = shlex.quote(str(self.folder))
        made = {STATION[verb].role for verb in VERBS if (self.folder / verb / MANIFEST).is_file()}
        lines = [f"The report:       {loading.write_report(self.folder)}"]
        if "corpus" in made:
            lines += [f"The corpus:       {self.folder / 'prepare' / 'report.html'}"]
        if made & {*MODEL_ROLES}:
            lines += [
                f"Talk to it:       modelwright chat {here}",
                f'See it think:     modelwright predict {here} "The capital of France is"',
                f"Serve it:         modelwright serve {here}",
            ]
        lines += [f"Where it is from: modelwright trace {here}"]
        self.view.log("\n" + "\n".join(lines))

    def _station(self, verb: str, stage: ModuleType, config: Config, force: bool) -> Artifact:
        """One station, after the search for its settings where one is wanted."""
        inputs = self._inputs(verb, stage)
        self._allow(verb, inputs.values())
        if verb in self._waiting:
            self._allow_facts(verb, stage, config)
        if self.searches and verb == SEARCHED:
            config = self._searched(stage, config, inputs, force)
        title = f"{self._place(verb)}{verb}: {STATION[verb].about}"
        return self._work(verb, STATION[verb].role, title, stage, config, inputs, force)

    def _searched(
        self, stage: ModuleType, config: Config, inputs: dict[str, Artifact], force: bool
    ) -> Config:
        """The station's settings with what a search chose; the run's recipe keeps them."""
        searcher = loading.stage_module("search").Searcher(stage)
        title = "search: learning rates and ranks -> what the fine-tuning takes"
        made = self._work("search", "search", title, searcher, config, inputs, force)
        found = merge(made.metrics["chosen"], {"search": {"found": made.id}})
        settings = merge(self.recipe.model_dump(mode="json"), {STATION[SEARCHED].section: found})
        self.recipe = validate(Recipe, settings, f"recipe '{self.recipe.name}'")
        write_text(self.folder / RECIPE_FILE, self.recipe.to_yaml())
        return loading.stage_config(self.recipe, SEARCHED)

    def _work(
        self,
        verb: str,
        role: str,
        title: str,
        stage: Any,
        config: Config,
        inputs: dict[str, Artifact],
        force: bool,
    ) -> Artifact:
        """A stage in its folder: skipped, resumed, or run from its beginning."""
        folder, seed = self.folder / verb, derive(self.recipe.seed, verb)
        mark = started_mark(verb, stage, config, seed, inputs)
        done = None if force else self._done(folder, mark)
        if done:
            self.view.log(f"{title} (unchanged: skipped)")
            return done
        resumed = not force and is_unfinished(folder, mark)
        self.view.log(f"{title}{' (goes on where it stopped)' if resumed else ''}")
        with instead_of(None if resumed else self._keep_aside(folder), folder, self.view.log):
            return_unused_memory()  # of the station before
            forget_peak()
            run = Run(folder, verb, role, config, seed, inputs, self.view)
            run.sampler_of = loading.sampler_of if self.alone else None
            if not resumed:
                write_json(folder / STARTED, {**mark, BEGAN: datetime.now(UTC).isoformat(timespec="seconds")})
            artifact = self._made(stage, config, run)
        self.view.log(f"  done in {artifact.manifest.cost.seconds:,.0f} s, artifact {artifact.id[:12]}")
        if outcome := planning.outcome(self.recipe, self.folder, verb):
            self.view.log(f"  {outcome}")
        return artifact

    def _made(self, stage: Any, config: Config, run: Run) -> Artifact:
        """What the stage makes; the log says why where it does not come to that."""
        try:
            with saying_when_full(run.dir):
                planning.foretell(self.recipe, self.folder, run)
                artifact: Artifact = stage.run(config, run)
                return artifact
        except KeyboardInterrupt:
            run.log("interrupted. What was made is kept; resume with the same command.")
            raise
        except Exception as error:
            run.failed(error)
            if has_work(self.folder):
                kept = "What was made is kept; once that is mended, the same command goes on from there."
                error.add_note(f"'{run.stage}' failed. {kept}")
            raise
        finally:
            with suppress(OSError):  # what is kept was closed by `finish`; a full disk has been said
                run.close()

    def _place(self, verb: str) -> str:
        """Which of the recipe's stations this is: "[1/2] "."""
        verbs = self.recipe.stages
        return f"[{verbs.index(verb) + 1}/{len(verbs)}] " if verb in verbs else ""

    def _check_inputs(self, stages: Mapping[str, ModuleType]) -> None:
        """Refuse before the first station what could only fail at a later one."""
        planned: set[str] = set()
        for verb, stage in stages.items():
            have = {role for role, _ in self._earlier(verb)} | planned | self.given.keys()
            for role in stage.INPUTS:
                if not have & ({*MODEL_ROLES, "model"} if role in ("model", "models") else {role}):
                    raise UserError(self._missing(verb, role))
            planned.add(STATION[verb].role)

    def _stay_forgotten(self, configs: dict[str, Config]) -> None:
        """What was once forgotten in this directory stays so, whatever recipe it is given next."""
        file = self.folder / RECIPE_FILE
        before = load_recipe(str(file), environment={}).data.get("forget", ()) if file.is_file() else ()
        if not before:
            return
        stage = loading.stage_module("forget")
        settings = self.recipe.model_dump(mode="json")
        edited = stage.stay_forgotten(settings, before)
        if edited != settings:
            self.view.log(f"Forgotten here before, and left out again: {', '.join(n[:16] for n in before)}")
            self.recipe = validate(Recipe, edited, f"recipe '{self.recipe.name}'")
            configs |= {verb: loading.stage_config(self.recipe, verb) for verb in configs}

    def _check_policy(self, stages: Mapping[str, ModuleType], configs: Mapping[str, Config]) -> None:
        """Refuse before any work what the recipe's policy does not allow: what sources say of themselves,
        and what is there already and will not be made anew."""
        self._waiting = outside.waiting(configs, self.folder)
        for verb, stage in stages.items():
            if verb not in self._waiting:
                self._allow_facts(verb, stage, configs[verb])
            kept = [(role, folder) for role, folder in self._earlier(verb) if folder.name not in stages]
            there = {role: Artifact.load(folder) for role, folder in kept} | self.given
            for role in used_by(stage):
                self._allow(verb, select(role, there).values())

    def _allow_facts(self, verb: str, stage: ModuleType, config: Config) -> None:
        """Refuse what a station's sources say of themselves, where the policy does not allow it."""
        if hasattr(stage, "facts"):
            refuse(self.policy.breaches(stage.facts(config)), verb)

    def _allow(self, verb: str, inputs: Iterable[Artifact]) -> None:
        """Refuse inputs that learned from what the policy does not allow."""
        for made in inputs:
            refuse(self.policy.breaches(made.manifest.provenance), f"{verb}: '{made.role}' at {made.path}")

    def _inputs(self, verb: str, stage: ModuleType) -> dict[str, Artifact]:
        """Role -> artifact, for the roles in the stage's INPUTS, and those in OPTIONAL that there are."""
        have = {role: Artifact.load(folder) for role, folder in self._earlier(verb)} | self.given
        found: dict[str, Artifact] = {}
        for role in used_by(stage):
            matching = select(role, have)
            if not matching and role in stage.INPUTS:
                raise UserError(self._missing(verb, role))
            found |= matching
        return found

    def _earlier(self, verb: str) -> Iterator[tuple[str, Path]]:
        """(role, folder) of the recipe's finished stations that come before `verb`."""
        for other in self.recipe.stages:
            if VERBS.index(other) < VERBS.index(verb) and (self.folder / other / MANIFEST).is_file():
                yield STATION[other].role, self.folder / other

    def _missing(self, verb: str, role: str) -> str:
        made = {"model": "base", "models": "base"}.get(role, role)
        makers = [name for name, station in STATION.items() if station.role == made]
        makers.sort(key=lambda name: name not in self.recipe.stages)
        return (
            f"{verb} needs '{role}', and {self.folder} has none yet. Run '{makers[0]}' there first, or name"
            f" a stage folder with --input {role}=PATH."
        )

    def _done(self, folder: Path, mark: Mapping[str, str]) -> Artifact | None:
        """The finished artifact in `folder`, if it was made from the same things and is intact."""
        if not (folder / MANIFEST).is_file() or read_mark(folder) != mark:
            return None
        try:
            artifact = Artifact.load(folder)
            damage = artifact.damage(hashes=True)
        except UserError as error:
            artifact, damage = None, str(error)
        if not damage:
            return artifact
        self.view.log(f"{folder} is damaged ({damage}): it is made again, from its checkpoints if it has any")
        (folder / MANIFEST).unlink()
        return None

    def _keep_aside(self, folder: Path) -> Path | None:
        """Put away what other settings or inputs have left, so that nobody mixes the two, and say where it
        lies now. A start that has made nothing leaves nothing to keep."""
        if not folder.is_dir() or not any(folder.iterdir()):
            return None
        if not has_work(folder) and not folder.is_symlink():
            shutil.rmtree(folder)
            return None
        number = 1
        while (aside := self.folder / REPLACED / f"{folder.name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        os.replace(folder, aside)
        self.view.log(f"  settings or inputs have changed; the earlier result is kept as {aside}")
        return aside

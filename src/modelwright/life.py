"""A life: the stations in order, what is done already, and what has to run.

A recipe says how to live; a run directory holds what came of it, one folder per station. A station
whose settings and inputs are unchanged and whose files are intact is skipped. One that was
interrupted goes on from its last checkpoint. Nothing is thrown away: what a changed setting makes
obsolete moves to `replaced/`.

Stage modules are imported when they are needed, because they bring torch with them and
`modelwright --help` must not wait for it (design/0002).
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from modelwright import __version__
from modelwright.base.artifact import FULL_PRECISION_MODELS, MANIFEST, Artifact, Parent, fingerprint
from modelwright.base.config import Config, validate
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import read_json, write_json, write_text
from modelwright.base.policy import Policy, refuse
from modelwright.base.progress import View
from modelwright.base.run import Run
from modelwright.base.seeding import derive
from modelwright.recipes.recipe import RECIPE_FILE, Recipe, load_recipe
from modelwright.recipes.stations import STATION, VERBS

STARTED = "started.json"
"""Written when a station starts: the settings and inputs that its unfinished work is good for."""
REPLACED = "replaced"
"""Where folders go that changed settings or inputs have made obsolete."""
LOCK = ".lock"
BOOKKEEPING = (LOCK, RECIPE_FILE, STARTED, "log.txt", "timing.jsonl", "plan.json", "units.jsonl")
"""What stands in a run directory before a station has made anything."""
MODEL_ROLES = (*FULL_PRECISION_MODELS, "int8")


class Life:
    """A recipe, the directory it is lived in, and who watches."""

    def __init__(
        self, recipe: Recipe, folder: Path, view: View, given: Mapping[str, Path] | None = None
    ) -> None:
        """`given` names inputs by hand, role -> stage folder; they win over the run directory's."""
        self.recipe, self.folder, self.view = recipe, Path(folder), view
        self.given = {role: load_given(role, path) for role, path in (given or {}).items()}
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
        stages = {verb: stage_module(verb) for verb in verbs}
        configs = {verb: stage_config(self.recipe, verb) for verb in verbs}
        with nothing_left_behind(self.folder), locked(self.folder):
            self._stay_forgotten(configs)
            self._check_inputs(stages)
            self._check_policy(stages, configs)
            write_text(self.folder / RECIPE_FILE, self.recipe.to_yaml())
            if note := taught_from_atlas(self.recipe, configs):
                self.view.log(note)
            return [self._station(verb, stages[verb], configs[verb], force) for verb in verbs]

    def is_up_to_date(self, verb: str) -> bool:
        """Whether a station that needs no inputs was made from what the recipe and its sources are now."""
        stage, config = stage_module(verb), stage_config(self.recipe, verb)
        mark = started_mark(verb, stage, config, derive(self.recipe.seed, verb), {})
        return read_mark(self.folder / verb) == mark

    def edit_corpus(self, stage: ModuleType, targets: Sequence[Any]) -> None:
        """Take texts out of the finished corpus, so that it is what the recipe asks for now."""
        folder = self.folder / "prepare"
        if not (folder / MANIFEST).is_file():
            return
        config, seed = stage_config(self.recipe, "prepare"), derive(self.recipe.seed, "prepare")
        for target in targets:
            stage.edit_corpus(Artifact.load(folder), target, config, seed)
        write_json(folder / STARTED, started_mark("prepare", stage_module("prepare"), config, seed, {}))

    def finish(self) -> None:
        """Write the report, and say what can be done with the model now."""
        report = write_report(self.folder)
        here = shlex.quote(str(self.folder))
        self.view.log(
            f"\nThe report:       {report}\n"
            f"Talk to it:       modelwright chat {here}\n"
            f'See it think:     modelwright predict {here} "The capital of France is"\n'
            f"Serve it:         modelwright serve {here}\n"
            f"Where it is from: modelwright trace {here}"
        )

    def _station(self, verb: str, stage: ModuleType, config: Config, force: bool) -> Artifact:
        """One station: skipped, resumed, or run from its beginning."""
        folder, seed, inputs = self.folder / verb, derive(self.recipe.seed, verb), self._inputs(verb, stage)
        self._allow(verb, inputs.values())
        mark = started_mark(verb, stage, config, seed, inputs)
        title = f"[{VERBS.index(verb) + 1}/{len(VERBS)}] {verb}: {STATION[verb].about}"
        done = None if force else self._done(folder, mark)
        if done:
            self.view.log(f"{title} (unchanged: skipped)")
            return done
        resumed = not force and is_unfinished(folder, mark)
        self.view.log(f"{title}{' (goes on where it stopped)' if resumed else ''}")
        if not resumed:
            self._keep_aside(folder)
        run = Run(folder, verb, STATION[verb].role, config, seed, inputs, self.view)
        write_json(folder / STARTED, mark)
        try:
            artifact: Artifact = stage.run(config, run)
        except KeyboardInterrupt:
            run.log("interrupted. What was made is kept; resume with the same command.")
            raise
        except Exception as error:
            run.log(f"failed: {type(error).__name__}")
            if has_work(self.folder):
                error.add_note(
                    f"'{verb}' failed. What was made is kept; the same command goes on from there."
                )
            raise
        finally:
            run.close()
        self.view.log(f"  done in {artifact.manifest.cost.seconds:,.0f} s, artifact {artifact.id[:12]}")
        return artifact

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
        if not file.is_file() or "prepare" not in configs:
            return
        before = load_recipe(str(file), environment={}).data.get("forget", ())
        new = sorted({*before} - {*self.recipe.data.get("forget", ())})
        if new:
            self.view.log(
                f"Forgotten here before, and left out again: {', '.join(each[:16] for each in new)}"
            )
            data = {**self.recipe.data, "forget": sorted({*before, *self.recipe.data.get("forget", ())})}
            self.recipe = self.recipe.model_copy(update={"data": data})
            configs["prepare"] = stage_config(self.recipe, "prepare")

    def _check_policy(self, stages: Mapping[str, ModuleType], configs: Mapping[str, Config]) -> None:
        """Refuse before any work what the recipe's policy does not allow: what sources say of themselves,
        and what is there already and will not be made anew."""
        for verb, stage in stages.items():
            if hasattr(stage, "facts"):
                refuse(self.policy.breaches(stage.facts(configs[verb])), verb)
            kept = [(role, folder) for role, folder in self._earlier(verb) if folder.name not in stages]
            there = {role: Artifact.load(folder) for role, folder in kept} | self.given
            for role in stage.INPUTS:
                self._allow(verb, select(role, there).values())

    def _allow(self, verb: str, inputs: Iterable[Artifact]) -> None:
        """Refuse inputs that learned from what the policy does not allow."""
        for made in inputs:
            refuse(self.policy.breaches(made.manifest.provenance), f"{verb}: '{made.role}' at {made.path}")

    def _inputs(self, verb: str, stage: ModuleType) -> dict[str, Artifact]:
        """Role -> artifact, for the roles that the stage names in INPUTS."""
        have = {role: Artifact.load(folder) for role, folder in self._earlier(verb)} | self.given
        found: dict[str, Artifact] = {}
        for role in stage.INPUTS:
            matching = select(role, have)
            if not matching:
                raise UserError(self._missing(verb, role))
            found |= matching
        return found

    def _earlier(self, verb: str) -> Iterator[tuple[str, Path]]:
        """(role, folder) of the recipe's finished stations that come before `verb`."""
        for other in self.recipe.stages:
            if VERBS.index(other) < VERBS.index(verb) and (self.folder / other / MANIFEST).is_file():
                yield STATION[other].role, self.folder / other

    def _missing(self, verb: str, role: str) -> str:
        makers = [name for name, station in STATION.items() if station.role == role] or ["pretrain"]
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

    def _keep_aside(self, folder: Path) -> None:
        """Put away what other settings or inputs have left, so that nobody mixes the two."""
        if not folder.is_dir() or not any(folder.iterdir()):
            return
        number = 1
        while (aside := self.folder / REPLACED / f"{folder.name}-{number}").exists():
            number += 1
        aside.parent.mkdir(exist_ok=True)
        os.replace(folder, aside)
        self.view.log(f"  settings or inputs have changed; the earlier result is kept as {aside}")


def forget(folder: Path, names: Sequence[str], view: View, *, yes: bool) -> list[Any]:
    """Where sources or documents of a run are and what saw them; with `yes` they are taken out of its recipe
    and corpus, and what was made from them is made again."""
    stage, recipe = stage_module("forget"), load_recipe(str(folder), environment={})
    artifacts = [Artifact.load(folder / v) for v in recipe.stages if (folder / v / MANIFEST).is_file()]
    targets = [stage.find_target(name, artifacts) for name in names]
    seen = [stage.look(target, artifacts, folder) for target in targets]
    if not yes:
        return seen
    settings = recipe.model_dump(mode="json")
    for target in targets:
        settings = stage.edit_recipe(settings, target)
    changed = validate(Recipe, settings, f"the recipe of {folder}")
    life = Life(changed, folder, view)
    with locked(folder):
        as_before = Life(recipe, folder, view).is_up_to_date("prepare")
        write_text(folder / RECIPE_FILE, changed.to_yaml())
        if as_before and all(target.source is None for target in targets):
            life.edit_corpus(stage, targets)
        stage.remove([folder / REPLACED])
    try:
        life.run([made.stage for made in artifacts])
    finally:
        stage.remove([folder / REPLACED])
    return seen


def read_at_step(artifact: Artifact, step: int) -> list[tuple[int, str, str, int, int]]:
    """What a step of the pre-training above an artifact read: (row, document, source, first, tokens)."""
    reading = stage_module("reading").reading_of(artifact.path, artifact.ancestry())
    return [astuple(piece) for piece in reading.of_step(step)]


def load_given(role: str, path: Path) -> Artifact:
    """The stage folder that was named to serve as `role`, if it can."""
    artifact = Artifact.load(path)
    fitting = FULL_PRECISION_MODELS if role == "model" else (role,)
    if artifact.role not in fitting:
        raise ConfigError(
            f"--input {role}={path}: that is '{artifact.role}', made by '{artifact.stage}'; expected"
            f" {' or '.join(fitting)}"
        )
    return artifact


def select(role: str, have: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """What serves as `role`: "model" is the latest full-precision model, "models" is every model."""
    if role == "models":
        return {made.role: made for made in have.values() if made.role in MODEL_ROLES}
    if role == "model" and role not in have:
        latest = [have[name] for name in FULL_PRECISION_MODELS if name in have]
        return {role: latest[-1]} if latest else {}
    return {role: have[role]} if role in have else {}


def stage_module(verb: str) -> ModuleType:
    """`modelwright.stages.<verb>`: Config, INPUTS, run."""
    return import_module(f"modelwright.stages.{verb}")


def stage_config(recipe: Recipe, verb: str) -> Config:
    """A station's settings, validated by the stage itself."""
    where = f"section '{STATION[verb].section}' of recipe '{recipe.name}'"
    return validate(stage_module(verb).Config, recipe.section(verb), where)


def taught_from_atlas(recipe: Recipe, configs: Mapping[str, Config]) -> str:
    """A line for who pre-trains on texts of their own, where later stations teach from the embedded corpus
    all the same; "" where that is not the case."""
    teaching = [verb for verb, config in configs.items() if verb != "prepare" and reads_atlas(config)]
    if not teaching or "prepare" not in recipe.stages:
        return ""
    if reads_atlas(stage_config(recipe, "prepare")) is not False:
        return ""
    return (
        f"Note: pretrain reads your texts, but what {' and '.join(teaching)} teach comes from the embedded"
        " corpus, atlas. For a model of your texts alone: modelwright run text --set data.sources=[...]"
    )


def reads_atlas(config: Config) -> bool | None:
    """Whether a station's sources hold the embedded corpus; None where it has none."""
    sources = getattr(config, "sources", ())
    return any(source.is_atlas for source in sources) if sources else None


def resolved(recipe: Recipe) -> dict[str, Any]:
    """The recipe with every default filled in."""
    settings = recipe.model_dump(mode="json")
    for verb in recipe.stages:
        settings[STATION[verb].section] = stage_config(recipe, verb).model_dump(mode="json")
    settings["model"] = settings["pretrain"].pop("model", settings["model"])
    return settings


def write_report(folder: Path) -> Path:
    """The self-contained page over a run directory."""
    return import_module("modelwright.stages.report").write_report(Path(folder))


def started_mark(
    verb: str, stage: ModuleType, config: Config, seed: int, inputs: Mapping[str, Artifact]
) -> dict[str, str]:
    """All that decides what a station makes. A stage that reads files from outside the run directory
    has `sources(config) -> str`, a mark that changes when their content does."""
    parents = [Parent(role=role, id=made.id, path="") for role, made in inputs.items()]
    return {
        "fingerprint": fingerprint(verb, config, seed, parents, __version__),
        "sources": stage.sources(config) if hasattr(stage, "sources") else "",
    }


def read_mark(folder: Path) -> Any:
    """What `started_mark` gave when the folder's work began; None where that is not known."""
    file = folder / STARTED
    return read_json(file) if file.is_file() else None


def is_unfinished(folder: Path, mark: Mapping[str, str]) -> bool:
    """Whether the folder holds unfinished work that the same settings and inputs began."""
    return read_mark(folder) == mark and not (folder / MANIFEST).exists()


@contextmanager
def nothing_left_behind(folder: Path) -> Iterator[None]:
    """A failure before anything was made takes the folders with it that were not there before."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        yield
    except Exception:
        if new and not has_work(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # somebody else has put something there
                for path in new[1:]:
                    path.rmdir()
        raise


def has_work(folder: Path) -> bool:
    """Whether a run directory holds anything but what every station begins with."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return any(file.name not in BOOKKEEPING and file.stat().st_size for file in files)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time works on a run directory. The system drops the lock with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(
                f"process {owner} is working on {folder}. Wait for it, stop it, or choose another --out."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield

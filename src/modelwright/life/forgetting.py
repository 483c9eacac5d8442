"""Taking a source or a document out of a run, and out of what was made from it.

First everything that holds it goes: at once, and recorded in a journal before it begins, so that a kill
at any point leaves a command to give again and never a text that is forgotten in name only. Then what the
recipe asks for is made again, as any life is: that may take long, and goes on where it was interrupted.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from modelwright.base.artifact import STARTED
from modelwright.base.config import Settings, validate
from modelwright.base.errors import UserError
from modelwright.base.files import read_json, write_json, write_text
from modelwright.base.progress import View
from modelwright.life import loading
from modelwright.life.folder import FORGETTING, locked
from modelwright.life.life import Life
from modelwright.life.seen import REPORT, Seen, leavings, look, outside_inputs, stations
from modelwright.recipes.recipe import RECIPE_FILE, Recipe, load_recipe


def forget(folder: Path, names: Sequence[str], view: View, *, yes: bool) -> list[Seen]:
    """Where sources or documents of a run are and what saw them; with `yes` they are taken out of its recipe
    and corpus, and what was made from them is made again. What an interrupted one began is finished first."""
    folder = Path(folder)
    before = _begun(folder, view) if yes else {}
    recipe = load_recipe(str(folder), environment={})
    targets = _targets(folder, names, recipe)
    seen = [look(target, folder, recipe.stages) for target in targets]
    new = [each for each in seen if not each.target.is_done]
    if not yes or not (new or before):
        return seen
    for each in new:
        if each.blocked:
            raise UserError(each.blocked)
    if new:
        with locked(folder):
            write_json(folder / FORGETTING, _journal(folder, recipe, new, before))
            _remove(folder, view)
    _make_again(folder, view)
    return seen


def _begun(folder: Path, view: View) -> dict[str, Any]:
    """The journal of a forgetting that did not come to its end; all texts that it names are gone now."""
    if not (folder / FORGETTING).is_file():
        return {}
    view.log("Going on with a forgetting that was interrupted.")
    with locked(folder):
        _remove(folder, view)
    return dict(read_json(folder / FORGETTING))


def _targets(folder: Path, names: Sequence[str], recipe: Recipe) -> list[Any]:
    stage = loading.stage_module("forget")
    made = [left.made for left in stations(folder) if left.made]
    known = {source for each in made for source in each.manifest.provenance.sources}
    known |= {stage.source_name(each) for section in _sections(recipe) for each in section.get("sources", ())}
    return [stage.find_target(name, folder, known, recipe.data.get("forget", ())) for name in names]


def _sections(recipe: Recipe) -> Iterable[Settings]:
    return (recipe.data, recipe.synthesize, recipe.finetune, recipe.align)


def _journal(folder: Path, recipe: Recipe, seen: Sequence[Seen], before: dict[str, Any]) -> dict[str, Any]:
    """All that is to be done, worked out and checked before anything is changed. What an earlier journal has
    still to make again is taken over."""
    stage = loading.stage_module("forget")
    targets = [each.target for each in seen]
    edited = validate(
        Recipe, stage.edit_recipe(recipe.model_dump(mode="json"), targets), f"the recipe of {folder}"
    )
    wanted = {verb for each in seen for verb in each.again} | {*before.get("again", ())}
    again = [verb for verb in edited.stages if verb in wanted]
    for verb in again:  # what cannot be read is said before what it would be made from is gone
        of_verb, config = loading.stage_module(verb), loading.stage_config(edited, verb)
        if hasattr(of_verb, "sources"):
            of_verb.sources(config)
    removed = {path for each in seen for path in each.removed}
    given: dict[str, str] = dict(before.get("given", {}))
    edits: dict[str, Any] = {}
    for left in stations(folder):
        if left.made and left.path in removed:
            given |= {role: str(made.path) for role, made in outside_inputs(folder, left.made).items()}
        if left.made and left.path not in removed and any(left.path in each.edited for each in seen):
            if damage := left.made.damage(
                hashes=True
            ):  # its files are hashed anew: never make damage official
                raise UserError(
                    f"{left.path} is damaged ({damage}), so what it holds cannot be known. Make it anew with "
                    f"'modelwright prepare {folder}', then forget."
                )
            documents = [each.target for each in seen if left.path in each.edited]
            started = stage.read_started(left.path / STARTED)
            edits[left.path.name] = asdict(stage.plan_edit(left.made, documents, started))
    return {
        "names": [target.name for target in targets],
        "targets": [{"name": t.name, "source": t.source, "documents": sorted(t.documents)} for t in targets],
        "recipe": edited.model_dump(mode="json"),
        "remove": sorted(path.relative_to(folder).as_posix() for path in removed),
        "edit": edits,
        "again": again,
        "given": given,
        "report": before.get("report", False) or (folder / REPORT).is_file(),
        "is_gone": False,
    }


def _remove(folder: Path, view: View) -> None:
    """Everything that holds it goes, as the journal says. Each part can be done twice, so it does not matter
    where an earlier attempt was interrupted."""
    journal = read_json(folder / FORGETTING)
    if journal["is_gone"]:
        return
    stage = loading.stage_module("forget")
    recipe = validate(Recipe, journal["recipe"], f"the recipe of {folder}")
    write_text(folder / RECIPE_FILE, recipe.to_yaml())
    for path in (*(folder / name for name in journal["remove"]), *leavings(folder)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    listed = [each for each in journal["targets"] if each["source"] is None]
    targets = [stage.Target(each["name"], None, frozenset(each["documents"])) for each in listed]
    for name, planned in journal["edit"].items():
        edit = stage.Edit(**planned)
        stage.edit_corpus(folder / name, targets, edit, view.log)
        write_json(folder / name / STARTED, edit.started)
    write_json(folder / FORGETTING, {**journal, "is_gone": True})
    made = ", ".join(journal["again"]) or "nothing"
    view.log(f"Gone from {folder}: {', '.join(journal['names'])}. To be made again: {made}.")


def _make_again(folder: Path, view: View) -> None:
    """Make what the recipe asks for from what is left."""
    journal = read_json(folder / FORGETTING)
    given = {role: Path(path) for role, path in journal["given"].items()}
    life = Life(load_recipe(str(folder), environment={}), folder, view, given)
    try:
        life.run([verb for verb in journal["again"] if verb in life.recipe.stages])
        if journal["report"]:
            loading.write_report(folder)
    except Exception as error:
        error.add_note(
            f"What was to be forgotten is gone from {folder}. What was made from it is not all made again:"
            f" give the same command once more, or modelwright run {shlex.quote(str(folder))}"
        )
        raise
    (folder / FORGETTING).unlink(missing_ok=True)

"""Cells: stations run inside another one, each in a folder of its own, for studies that compare many."""

from __future__ import annotations

from types import ModuleType

from modelwright import __version__
from modelwright.base import config
from modelwright.base.artifact import MANIFEST, Artifact, Parent, fingerprint
from modelwright.base.progress import View
from modelwright.base.run import Run
from modelwright.base.seeding import derive


def cell(
    run: Run,
    stage: ModuleType,
    role: str,
    settings: config.Config,
    name: str,
    inputs: dict[str, Artifact],
    view: View | None,
    number: int = 0,
) -> Artifact:
    """What a stage makes in a folder of this study, unless it lies there already. The folder's name holds a
    mark of all that decides the result, so nothing stale is ever taken, and an interrupted cell goes on from
    its last checkpoint. `number` gives the cell a seed of its own; cells of number 0 share one."""
    verb = stage.__name__.rpartition(".")[2]
    seed = derive(run.seed, verb, number) if number else derive(run.seed, verb)
    parents = [Parent(role=role, id=made.id, path="") for role, made in inputs.items()]
    mark = fingerprint(verb, settings, seed, parents, __version__)
    folder = run.dir / "cells" / f"{name}-{verb}-{mark[:12]}"
    if (folder / MANIFEST).is_file():
        artifact = Artifact.load(folder)
        if not artifact.damage():
            return artifact
    run.log(f"{name}: {verb}")
    work = Run(folder, verb, role, settings, seed, inputs, view)
    work.sampler_of = run.sampler_of
    try:
        return stage.run(settings, work)
    finally:
        work.close()

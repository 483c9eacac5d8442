"""Commands that look at runs: what is there, where it is from, what saw a document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.app import LOOK, AsJson, Quiet, app


@app.command(rich_help_panel=LOOK)
def ls(
    folder: Annotated[Path, typer.Argument(help="Where runs lie.")] = Path("runs"), as_json: AsJson = False
) -> None:
    """List the runs in a folder: what is done, how big, how good."""
    from modelwright.terminal import runs

    runs.show_runs(folder, as_json=as_json)


@app.command(rich_help_panel=LOOK)
def show(
    path: Annotated[Path, typer.Argument(help="A run directory or a stage folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file and compare.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show manifests: settings, inputs, files, metrics, cost, licences."""
    from modelwright.terminal import manifests

    manifests.show_manifests(path, verify=verify, as_json=as_json)


@app.command(rich_help_panel=LOOK)
def trace(
    path: Annotated[Path, typer.Argument(help="A stage folder, or a run directory (its last model).")],
    document: Annotated[
        str | None, typer.Option("--document", help="A document's id, or its beginning: who saw it?")
    ] = None,
    token: Annotated[
        int | None, typer.Option("--token", help="A token's position in the training shards: its document.")
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step",
            help="A step, from 1: what it read. Of pre-training, or of the stage whose folder is given.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trace an artifact through its ancestors down to the documents."""
    from modelwright.terminal import lineage

    if step is not None:
        from modelwright.life import read_at_step, taught_at_step

        named = lineage.named(path)[-1]
        if named.stage in ("finetune", "align") and named.path.samefile(path):
            lineage.show_taught(path, step, *taught_at_step(named, step), as_json)
        else:
            lineage.show_step(path, step, read_at_step(named, step), as_json)
    elif document is not None:
        lineage.show_document(path, document, as_json=as_json)
    elif token is not None:
        lineage.show_token(path, token, as_json=as_json)
    else:
        lineage.show_ancestry(path, as_json=as_json)


@app.command(rich_help_panel=LOOK)
def forget(
    folder: Annotated[Path, typer.Argument(help="A run directory.")],
    names: Annotated[list[str], typer.Argument(help="Sources by name, or documents by id.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Take them out, and make anew what was made from them.")
    ] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """List every shard and model that saw a source or a document; with --yes, take it out of them."""
    from modelwright.base.progress import choose_view
    from modelwright.life import forget as forget_in
    from modelwright.terminal import lineage

    seen = forget_in(folder, names, choose_view(quiet), yes=yes)
    lineage.show_seen(names, seen, yes, as_json)

"""Commands about rows of conversations and preference pairs: looked at, cleaned and turned into others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from modelwright.cli.app import LOOK, AsJson, Quiet, app

dataset = typer.Typer(
    name="dataset",
    help="Fine-tuning data, before a model learns from it: check, stats, preview, split, dedup, convert.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dataset, rich_help_panel=LOOK)

Files = Annotated[
    list[str], typer.Argument(help="JSON Lines, JSON, CSV, TSV, Parquet, Arrow; folders and globs too.")
]
Format = Annotated[str | None, typer.Option("--format", help="Of the files, whatever their suffixes say.")]
LayoutOption = Annotated[
    str | None, typer.Option("--layout", help="alpaca, messages, ...: found from the rows where not said.")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--field", help="NAME=COLUMN, e.g. question=Frage: what the rows call a field. Repeatable."),
]
Model = Annotated[
    Path | None,
    typer.Option("--model", help="A model, a run or a tokenizer folder: whose tokens and chat template."),
]
Context = Annotated[int | None, typer.Option("--context", min=2, help="Tokens that fit a row of training.")]
OutFile = Annotated[Path, typer.Option("--out", "-o", help="The file to write.")]


def _settings(format: str | None, layout: str | None, columns: list[str] | None) -> dict[str, Any]:
    fields: dict[str, str] = {}
    for column in columns or ():
        name, equals, own = column.partition("=")
        if not (name and equals and own):
            raise typer.BadParameter(f"--field got '{column}', expected NAME=COLUMN, e.g. question=Frage")
        fields[name] = own
    return {"format": format, "layout": layout, "fields": fields}


def _stage(name: str) -> Any:
    from modelwright.life import stage_module

    return stage_module(name)


def _view(quiet: bool) -> Any:
    from modelwright.base.progress import choose_view

    return choose_view(quiet)


@dataset.command()
def check(
    files: Files,
    format: Format = None,
    layout: LayoutOption = None,
    columns: Columns = None,
    model: Model = None,
    context: Context = None,
    against: Annotated[
        list[Path] | None, typer.Option("--against", help="An evaluation set to look for. Repeatable.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option("--gate", help="A kind of finding that exits with code 3; none: no kind. Repeatable."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="A file that gets a line of JSON for every finding.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find what is wrong with rows; exit code 3 where a gate is among it."""
    from modelwright.base.errors import GateRefused
    from modelwright.terminal import dataset as shown

    found = _stage("dataset_check").check(
        files,
        _settings(format, layout, columns),
        _view(quiet),
        model=model,
        context=context,
        against=against or (),
        gates=gate,
        report=report,
    )
    shown.show_checked(found, as_json)
    if found.gates:
        raise GateRefused(f"found {', '.join(found.gates)}: mend these rows, or choose the gates (--gate)")


@dataset.command()
def stats(
    files: Files,
    format: Format = None,
    layout: LayoutOption = None,
    columns: Columns = None,
    model: Model = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Count rows, turns, tokens, what is learned, languages, repeats."""
    from modelwright.terminal import dataset as shown

    made = _stage("dataset_check").stats(files, _settings(format, layout, columns), _view(quiet), model=model)
    shown.show_stats(made, as_json)


@dataset.command()
def preview(
    files: Files,
    format: Format = None,
    layout: LayoutOption = None,
    columns: Columns = None,
    model: Model = None,
    context: Context = None,
    count: Annotated[int, typer.Option("--rows", "-n", min=1, help="How many.")] = 3,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Begin behind so many.")] = 0,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page instead.")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Print rows as the model will see them, with what it learns in colour."""
    from modelwright.terminal import dataset as shown

    stage = _stage("dataset_preview")
    settings = _settings(format, layout, columns)
    about, rows = stage.preview(
        files, settings, _view(quiet), model=model, context=context, skip=skip, count=count
    )
    if html is not None:
        stage.write_page(html, about, rows)
        print(html)
    else:
        shown.show_preview(about, rows, as_json)


@dataset.command()
def split(
    files: Files,
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for train.jsonl and validation.jsonl.")],
    validation: Annotated[
        float, typer.Option("--validation", min=0.0, max=1.0, help="Share that is held out.")
    ] = 0.05,
    seed: Annotated[int, typer.Option(help="Another seed, another choice.")] = 0,
    format: Format = None,
    layout: LayoutOption = None,
    columns: Columns = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Hold rows out, so that no prompt and nothing much alike is on both sides."""
    from modelwright.terminal import dataset as shown

    made = _stage("dataset_rows").split(
        files, _settings(format, layout, columns), out, _view(quiet), fraction=validation, seed=seed
    )
    shown.show_written(made, as_json)


@dataset.command()
def dedup(
    files: Files,
    out: OutFile,
    near: Annotated[bool, typer.Option("--near", help="Drop rows that are much alike, too.")] = False,
    prompts: Annotated[bool, typer.Option("--prompts", help="Keep one answer to each prompt.")] = False,
    report: Annotated[
        Path | None, typer.Option("--report", help="A file: which row was kept for which.")
    ] = None,
    format: Format = None,
    layout: LayoutOption = None,
    columns: Columns = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write rows without those that repeat earlier ones."""
    from modelwright.terminal import dataset as shown

    settings = _settings(format, layout, columns)
    made = _stage("dataset_rows").dedup(
        files, settings, out, _view(quiet), near=near, prompts=prompts, report=report
    )
    shown.show_written(made, as_json)


@dataset.command()
def convert(
    files: Files,
    out: OutFile,
    format: Format = None,
    layout: LayoutOption = None,
    columns: Columns = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write rows as OpenAI's messages (pairs as TRL's), in .jsonl or .parquet."""
    from modelwright.terminal import dataset as shown

    made = _stage("dataset_rows").convert(files, _settings(format, layout, columns), out, _view(quiet))
    shown.show_written(made, as_json)

"""The command about adapters that is no station: merging one by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.app import STATION, ModelPath, app


@app.command(rich_help_panel=STATION)
def merge(
    model: ModelPath,
    adapter: Annotated[Path, typer.Argument(help="A folder of PEFT: LoRA, rsLoRA or DoRA.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
    undo: Annotated[bool, typer.Option("--undo", help="Take the adapter out of a merged model.")] = False,
) -> None:
    """Merge an adapter into its model, or take it out again, and print where the result is."""
    from modelwright.terminal.merging import merge_adapter

    print(merge_adapter(model, adapter, out, undo=undo))

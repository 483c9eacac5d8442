"""Commands about data that are no station: a study of vocabularies, a quality model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from modelwright.cli.app import LOOK, STATION, AsJson, Out, Overrides, Quiet, RecipeName, app
from modelwright.cli.lives import listed, open_life, show_study


@app.command(rich_help_panel=LOOK)
def study(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    sizes: Annotated[str, typer.Option(help="Vocabulary sizes to compare.")] = "1024,2048,4096,8192",
    parallel: Annotated[Path | None, typer.Option(help="One text in many languages, JSON Lines.")] = None,
    train_bytes: Annotated[int, typer.Option(min=0, help="Text a model reads; 0: no models.")] = 2_000_000,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Compare vocabulary sizes on a recipe's corpus: lengths, languages, bits per byte (tokenize study)."""
    from modelwright.life import stage_module

    stage, life = stage_module("study"), open_life(recipe, out, overrides, None, quiet)
    settings = {
        "vocab_sizes": listed(sizes),
        "tokenizer": life.recipe.tokenizer,
        "target": life.recipe.model,
        "parallel": parallel,
        "train_bytes": train_bytes,
    }
    stage.check(settings)
    (corpus,) = life.run(["prepare"])
    made = stage.study(life.folder / "study", corpus.path, settings, life.recipe.seed, life.view)
    show_study(made.path, "study", as_json)


@app.command(rich_help_panel=STATION)
def quality(
    good: Annotated[str, typer.Argument(help="Text that you want: a file, a folder or a glob.")],
    ordinary: Annotated[str, typer.Argument(help="Text as it comes.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder for the model and its page.")] = Path(
        "quality-model"
    ),
    max_documents: Annotated[int, typer.Option(min=50, help="Of each kind, the first ones.")] = 20_000,
    quiet: Quiet = False,
) -> None:
    """Learn a quality model from two kinds of text, for the filter `quality`."""
    from modelwright.base.progress import choose_view
    from modelwright.life import stage_module

    stage, view = stage_module("quality"), choose_view(quiet)
    learned = stage.learn([good], [ordinary], out, view, max_documents=max_documents)
    print(learned.summary)
    print(f"the page: {out / 'report.html'}", file=sys.stderr)

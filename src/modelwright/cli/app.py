"""The application that the commands join, and the options that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

LIFE, STATION, TALK, LOOK = "A whole life", "One station alone", "Talk to a model", "Look"

app = typer.Typer(
    name="modelwright",
    help="Carries a language model through its whole life: from raw text to a model you can talk to.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeName = Annotated[str, typer.Argument(help="A shipped recipe, a YAML file, or the directory of a run.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The run directory; runs/<recipe> by default.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="path=value, e.g. --set model.depth=8; the value is YAML. Repeatable."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option("--input", help="role=PATH: take this stage folder as an input. Repeatable."),
]
Force = Annotated[bool, typer.Option("--force", help="Do it again even if nothing has changed.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]
Temperature = Annotated[float, typer.Option(help="0 takes the most likely token.")]
TopK = Annotated[int, typer.Option(help="Keep the k most likely tokens; 0 keeps all.")]
TopP = Annotated[float, typer.Option(help="Keep the most likely tokens that make up this share.")]
MinP = Annotated[float, typer.Option(help="Keep tokens at least this likely, relative to the best one.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same text.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes the GPU where there is one.")
]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16"],
    typer.Option(help="What is computed in; auto takes bfloat16 where it multiplies faster."),
]
Speculate = Annotated[
    str | None,
    typer.Option(
        metavar="ngram|PATH", help="Guess by look-up, or with a smaller model that has the same tokenizer."
    ),
]
Guesses = Annotated[
    int | None, typer.Option(min=1, max=64, help="Tokens guessed at a time, at most. [default: 8]")
]
ModelPath = Annotated[Path, typer.Argument(help="A run directory, a stage folder, or a model folder.")]

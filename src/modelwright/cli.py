"""The command line: one command per verb, and a few to look and to talk. It parses, calls, nothing else.

Data goes to standard output, everything for the eye to standard error. Exit codes: 0 ok, 1 failed,
2 usage, 3 a gate said no, 130 interrupted. What a command needs is imported when the command runs, so
that `--help` answers at once (design/0002).
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from modelwright import __version__
from modelwright.base.errors import ConfigError, GateRefused, UserError
from modelwright.recipes.stations import STATIONS, Station

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
ModelPath = Annotated[Path, typer.Argument(help="A run directory, a stage folder, or a model folder.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    if arguments[:2] == ["tokenize", "study"]:
        arguments[:2] = ["study"]
    try:
        app(args=arguments, prog_name="modelwright")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except KeyboardInterrupt as error:
        return _say(error, 130, "interrupted", debug)
    except UserError as error:
        code = {ConfigError: 2, GateRefused: 3}.get(type(error), 1)
        return _say(error, code, str(error), debug)
    except BrokenPipeError:
        sys.stderr.close()  # the reader (head, less) has gone: nothing is left to say to it
        return 1
    except OSError as error:
        if error.filename is None:
            raise
        return _say(error, 1, f"{error.filename}: {error.strerror}", debug)
    return 0


def _say(error: BaseException, code: int, text: str, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    else:
        print("\n".join([f"modelwright: {text}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _start(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command(rich_help_panel=LIFE)
def run(
    recipe: RecipeName,
    out: Out = None,
    overrides: Overrides = None,
    inputs: Inputs = None,
    start: Annotated[str | None, typer.Option("--from", help="Begin at this station.")] = None,
    until: Annotated[str | None, typer.Option("--until", help="Stop after this station.")] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Live a whole recipe: skip what is done, resume what was interrupted, run the rest."""
    life = _life(recipe, out, overrides, inputs, quiet)
    life.run(life.between(start, until), force=force)
    if until is None or until == life.recipe.stages[-1]:
        life.finish()


def _life(
    recipe: str, out: Path | None, overrides: list[str] | None, inputs: list[str] | None, quiet: bool
) -> Any:
    from modelwright.base.progress import choose_view
    from modelwright.life import Life
    from modelwright.recipes.recipe import load_recipe, parse_inputs, run_directory

    loaded = load_recipe(recipe, overrides or ())
    folder = out or run_directory(recipe, loaded)
    return Life(loaded, folder, choose_view(quiet), parse_inputs(inputs or ()))


def _station_command(station: Station) -> Callable[..., None]:
    def command(
        recipe: RecipeName,
        out: Out = None,
        overrides: Overrides = None,
        inputs: Inputs = None,
        force: Force = False,
        quiet: Quiet = False,
    ) -> None:
        _life(recipe, out, overrides, inputs, quiet).run([station.verb], force=force)

    command.__doc__ = f"{station.about[0].upper()}{station.about[1:]}."
    return command


for _station in STATIONS:
    app.command(_station.verb, rich_help_panel=STATION)(_station_command(_station))


@app.command(rich_help_panel=TALK)
def chat(
    model: ModelPath,
    system: Annotated[str, typer.Option(help="The system message.")] = "",
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 256,
    temperature: Temperature = 0.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    device: Device = "cpu",
) -> None:
    """Talk to a model in the terminal. /help lists the commands, /exit leaves, Ctrl-C stops an answer."""
    from modelwright.base.schema import Sampling
    from modelwright.terminal import chat as terminal

    sampling = Sampling(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )
    terminal.chat(model, sampling, system=system, device=device)


@app.command(rich_help_panel=TALK)
def predict(
    model: ModelPath,
    prompt: Annotated[str, typer.Argument(help="The text so far.")],
    steps: Annotated[int, typer.Option(min=1, help="Go on for this many tokens.")] = 1,
    top: Annotated[int, typer.Option(min=1, help="How many candidates to show.")] = 10,
    temperature: Annotated[
        float | None,
        typer.Option(help="Also show what this temperature and the filters leave, and draw from it."),
    ] = None,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Show what a model thinks comes next, token by token."""
    from modelwright.base.schema import Sampling
    from modelwright.terminal import predict as terminal

    filtered = (top_k, top_p, min_p) != (0, 1.0, 0.0)
    sampling = None
    if temperature is not None or filtered:
        warmth = 1.0 if temperature is None else temperature
        sampling = Sampling(temperature=warmth, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    elif seed is not None:
        raise ConfigError("--seed has no effect without --temperature or a filter: nothing is drawn")
    terminal.predict(model, prompt, steps=steps, top=top, sampling=sampling, as_json=as_json, device=device)


@app.command(rich_help_panel=TALK)
def serve(
    model: ModelPath,
    host: Annotated[
        str, typer.Option(help="Beyond loopback, a key and an origin are required.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call the model.")] = None,
    api_key: Annotated[
        str | None,
        typer.Option(envvar="MODELWRIGHT_API_KEY", help="Clients must send it. Better by environment."),
    ] = None,
    origins: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", help="An exact web origin that may call. Repeatable."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Answers that are made at the same time.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Answers that may be open; more are turned away.")] = 128,
) -> None:
    """Serve a model over OpenAI's HTTP interface, on this machine."""
    from modelwright.life import stage_module

    stage_module("serve").serve(
        model,
        host,
        port,
        name=name,
        api_key=api_key,
        origins=origins or (),
        slots=slots,
        queue_limit=queue,
        on_ready=lambda address: print(f"serving {model} at {address} (Ctrl-C stops)", file=sys.stderr),
    )


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

    life = _life(recipe, out, overrides, None, quiet)
    (corpus,) = life.run(["prepare"])
    settings = {
        "vocab_sizes": [int(size) for size in sizes.split(",") if size.strip().isdecimal()],
        "tokenizer": life.recipe.tokenizer,
        "target": life.recipe.model,
        "parallel": parallel,
        "train_bytes": train_bytes,
    }
    folder = life.folder / "study"
    made = stage_module("study").study(folder, corpus.path, settings, life.recipe.seed, life.view)
    print((folder / "study.json").read_text(encoding="utf-8") if as_json else made.path / "study.html")


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
        int | None, typer.Option("--step", help="A step of pre-training, from 1: the documents it read.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Trace an artifact through its ancestors down to the documents."""
    from modelwright.terminal import lineage

    if step is not None:
        from modelwright.life import read_at_step

        lineage.show_step(path, step, read_at_step(lineage.named(path)[-1], step), as_json)
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


@app.command(rich_help_panel=LOOK)
def recipes(
    name: Annotated[str | None, typer.Argument(help="Print this recipe.")] = None, as_json: AsJson = False
) -> None:
    """List the shipped recipes, or print one to start your own from."""
    from modelwright.recipes.recipe import load_recipe, recipe_text, shipped

    if name is not None:
        print(recipe_text(name), end="")
        return
    rows = {recipe: load_recipe(recipe, environment={}).about for recipe in shipped()}
    print(
        json.dumps(rows, indent=2) if as_json else "\n".join(f"{n:14} {about}" for n, about in rows.items())
    )


@app.command(rich_help_panel=LOOK)
def validate(recipe: RecipeName, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and print it with every default filled in. Runs nothing."""
    import yaml

    from modelwright.life import resolved
    from modelwright.recipes.recipe import load_recipe

    settings = resolved(load_recipe(recipe, overrides or ()))
    print(json.dumps(settings, indent=2) if as_json else yaml.safe_dump(settings, sort_keys=False), end="")


@app.command(rich_help_panel=LOOK)
def report(folder: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """Write a run's report.html anew and print where it is."""
    from modelwright.life import write_report

    print(write_report(folder))


@app.command(rich_help_panel=LOOK)
def env(as_json: AsJson = False) -> None:
    """Versions, processor, optional readers: what a bug report needs."""
    from modelwright.terminal import environment

    environment.show_environment(as_json=as_json)

"""Runs a command, and turns errors into words and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from modelwright import __version__
from modelwright.base.errors import ConfigError, GateRefused, UserError
from modelwright.base.world import place
from modelwright.cli.app import app

for _name in (
    "lives",
    "talking",
    "runs",
    "data",
    "dataset",
    "plan",
    "scale",
    "averages",
    "rationales",
    "adapters",
    "checks",
):
    import_module(f"modelwright.cli.{_name}")  # registers its commands; --help lists them in this order


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    if debug:
        arguments.remove("--debug")
    for verb, name in (("tokenize", "study"), ("average", "average-study")):
        if arguments[:2] == [verb, "study"]:
            arguments[:2] = [name]
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
    who = place()
    if debug:
        traceback.print_exception(error)
    elif not who.is_first and code != 1:
        return code  # a mistake in the settings is one on every process: the first one says it
    else:
        name = "modelwright" if who.is_first else f"modelwright, process {who.rank}"
        print("\n".join([f"{name}: {text}", *getattr(error, "__notes__", ())]), file=sys.stderr)
    return code


@app.callback(invoke_without_command=True)
def _start(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback with every error.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit

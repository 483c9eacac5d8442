"""Commands that talk to a model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelwright.base.errors import ConfigError
from modelwright.cli.app import TALK, AsJson, Device, MinP, ModelPath, Seed, Temperature, TopK, TopP, app


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

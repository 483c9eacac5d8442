"""Commands that talk to a model."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from modelwright.base.errors import ConfigError
from modelwright.cli.app import (
    TALK,
    AsJson,
    Device,
    Dtype,
    Guesses,
    MinP,
    ModelPath,
    Seed,
    Speculate,
    Temperature,
    TopK,
    TopP,
    app,
)


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
    device: Device = "auto",
    dtype: Dtype = "auto",
    speculate: Speculate = None,
    guesses: Guesses = None,
) -> None:
    """Talk to a model in the terminal. /help lists the commands, /exit leaves, Ctrl-C stops an answer."""
    from modelwright.base.schema import Sampling
    from modelwright.terminal import chat as terminal

    sampling = Sampling(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )
    terminal.chat(
        model, sampling, system=system, device=device, dtype=dtype, speculate=speculate, guesses=guesses
    )


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
    repetition_penalty: Annotated[float, typer.Option(help="Above 1 discourages what was said.")] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Discourages what was answered.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, once for each time.")] = 0.0,
    logit_bias: Annotated[
        list[str] | None, typer.Option(metavar="ID=BIAS", help="Added to a token's logit. Repeatable.")
    ] = None,
    seed: Seed = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(help="Figures are those of the CPU; cuda, or auto with a GPU, is for large models."),
    ] = "cpu",
    as_json: AsJson = False,
) -> None:
    """Show what a model thinks comes next, token by token, and what each sampling step makes of it.

    It computes in fp32, whatever is quickest here: in bf16 the figures are off in their third digit.
    """
    from modelwright.base.schema import Sampling
    from modelwright.terminal import predict as terminal

    drawing = Sampling(
        temperature=1.0 if temperature is None else temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        logit_bias=tuple(map(_bias, logit_bias or ())),
    )
    sampling = None
    if temperature is not None or drawing != Sampling(temperature=1.0):
        sampling = replace(drawing, seed=seed)
    elif seed is not None:
        raise ConfigError("--seed has no effect without --temperature or a filter: nothing is drawn")
    terminal.predict(model, prompt, steps=steps, top=top, sampling=sampling, as_json=as_json, device=device)


@app.command(rich_help_panel=TALK)
def bench(
    model: ModelPath,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 128,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="The median of so many is told.")] = 3,
    device: Device = "auto",
    dtype: Dtype = "auto",
    speculate: Speculate = None,
    guesses: Guesses = None,
    as_json: AsJson = False,
) -> None:
    """Measure how fast a model answers here, for 1 to 32 requests at once, beside the machine's limit."""
    from modelwright.terminal import bench as terminal

    settings = {"device": device, "dtype": dtype, "speculate": speculate, "guesses": guesses}
    terminal.bench(model, prompt=prompt, tokens=tokens, repeats=repeats, as_json=as_json, **settings)


def _bias(text: str) -> tuple[int, float]:
    """A token and its bias, of text such as 17=-2.5."""
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise ConfigError(f"--logit-bias {text!r}: expected ID=BIAS, such as 17=-2.5") from None


@app.command(rich_help_panel=TALK)
def serve(
    models: Annotated[
        list[str],
        typer.Argument(help="Runs, stage folders or model folders, each as PATH or NAME=PATH."),
    ],
    host: Annotated[
        str, typer.Option(help="Beyond loopback, a key and an origin are required.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 lets the system choose.")] = 8000,
    name: Annotated[str | None, typer.Option(help="What clients call a single model.")] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", help="NAME=PATH of a LoRA adapter (MODEL:NAME=PATH). Repeatable."),
    ] = None,
    api_keys: Annotated[
        list[str] | None,
        typer.Option(
            "--api-key",
            envvar="MODELWRIGHT_API_KEY",
            help="Clients must send it; repeatable. Better by environment or file.",
        ),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="A file with API keys, one a line.")] = None,
    origins: Annotated[
        list[str] | None,
        typer.Option("--allow-origin", help="An exact web origin that may call. Repeatable."),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Answers that are made at the same time.")] = 32,
    queue: Annotated[int, typer.Option(min=1, help="Answers that may be open; more are turned away.")] = 128,
    share_cache: Annotated[
        bool,
        typer.Option(
            "--share-cache", help="Clients with different keys share the cache, and can tell who asked what."
        ),
    ] = False,
    drain: Annotated[float, typer.Option(min=0, help="Seconds that SIGTERM leaves to open answers.")] = 30,
    device: Device = "auto",
    dtype: Dtype = "auto",
    speculate: Speculate = None,
    guesses: Guesses = None,
) -> None:
    """Serve models over OpenAI's HTTP interface, on this machine."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A script's `modelwright serve ... &` is started with SIGINT ignored, and would never hear of one.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    from modelwright.life import stage_module

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    stage_module("serve").serve(
        models,
        host,
        port,
        name=name,
        adapters=adapters or (),
        api_keys=api_keys or (),
        api_key_file=api_key_file,
        origins=origins or (),
        slots=slots,
        queue_limit=queue,
        drain_seconds=drain,
        device=device,
        dtype=dtype,
        speculate=speculate,
        guesses=guesses,
        share_cache=share_cache,
        on_ready=lambda address, chosen: say(
            f"serving {', '.join(models)} at {address} on {chosen.summary()} (Ctrl-C stops)"
        ),
        say=say,
    )

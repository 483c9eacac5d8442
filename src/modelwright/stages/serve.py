"""Serve models over OpenAI's HTTP interface. The one verb that makes no artifact."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from modelwright.base.device import Device, choose
from modelwright.base.errors import ConfigError, did_you_mean
from modelwright.formats.locate import fingerprint, resolve_model
from modelwright.formats.open_model import open_model
from modelwright.formats.peft import load_adapter
from modelwright.inference.engine import Engine
from modelwright.inference.speculate import Speculation
from modelwright.server.app import create_app
from modelwright.server.guards import Access, read_keys
from modelwright.server.listen import Server, bind
from modelwright.server.models import Loaded, Source


def serve(
    models: Path | str | Sequence[Path | str],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    adapters: Sequence[str] = (),
    api_keys: Sequence[str] = (),
    api_key_file: Path | None = None,
    origins: Sequence[str] = (),
    slots: int = 32,
    queue_limit: int = 128,
    body_limit: int = 1 << 20,
    share_cache: bool = False,
    drain_seconds: float = 30,
    dtype: str = "auto",
    device: str = "auto",
    speculate: str | None = None,
    guesses: int | None = None,
    on_ready: Callable[[str, Device], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Load models and answer requests until interrupted, or drained by SIGTERM.

    A model is a path, or NAME=PATH; a LoRA adapter is NAME=PATH, or MODEL:NAME=PATH where several models
    are served. Port 0 lets the system choose. `speculate` is "ngram" or the
    path of a draft model, for all models, with at most `guesses` tokens at a time. `on_ready` is called with
    the address, and with what the models compute on, once requests are taken; until then /health says that
    they are being loaded, and `say` is called with lines for whoever waits. Beyond loopback, a key and at
    least one exact origin are required.
    """
    listener = bind(host, port)
    try:
        host, port = listener.getsockname()[:2]
        keys = [*api_keys, *(read_keys(api_key_file) if api_key_file else ())]
        access = Access.of(host, port, keys, origins)
        folders = named([models] if isinstance(models, Path | str) else models, name)
        found = adapters_of(adapters, list(folders))
        chosen = choose(device, dtype)
        settings = {"slots": slots, "device": chosen, "speculate": speculate, "guesses": guesses}
        sources = [
            Source(model, partial(_load, model, path, found[model], say=say, **settings))
            for model, path in folders.items()
        ]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        failures: list[Exception] = []

        def loaded(failure: Exception | None) -> None:
            if failure is not None:
                failures.append(failure)
                server.should_exit = True
            elif on_ready is not None:
                on_ready(address, chosen)

        app, service = create_app(
            sources,
            access=access,
            queue_limit=queue_limit,
            body_limit=body_limit,
            share_cache=share_cache,
            on_loaded=loaded,
        )
        server = Server(app, service.drain, service.cut_off, drain_seconds)
        server.run(sockets=[listener])
        if failures:
            raise failures[0]
    finally:
        listener.close()


def named(models: Sequence[Path | str], name: str | None = None) -> dict[str, Path]:
    """Name -> path of "NAME=PATH" or of bare paths, which are called after their run or folder (or `name`,
    where there is only one). A path that holds no model is refused here, before anything is loaded."""
    if name is not None and len(models) > 1:
        raise ConfigError("--name names one model; write NAME=PATH where there are several")
    found: dict[str, Path] = {}
    for model in models:
        given, equals, rest = str(model).partition("=")
        bare = not equals or Path(model).exists()
        path = Path(model if bare else rest).expanduser()
        called = name or (_name_of(resolve_model(path)) if bare else given)
        resolve_model(path)
        if called in found:
            raise ConfigError(
                f"two models are called '{called}': {found[called]} and {path}. Write NAME=PATH"
            )
        found[called] = path
    return found


def adapters_of(adapters: Sequence[str], models: Sequence[str]) -> dict[str, dict[str, Path]]:
    """Model -> its LoRA adapters' names and paths. Clients ask for an adapter as for a model, so no two
    may have the same name."""
    found: dict[str, dict[str, Path]] = {model: {} for model in models}
    taken = set(models)
    for adapter in adapters:
        given, _, path = adapter.partition("=")
        model, _, name = given.rpartition(":")
        model = model or models[0]
        if not name or not path or (":" not in given and len(models) > 1):
            expected = "NAME=PATH" if len(models) == 1 else "MODEL:NAME=PATH, since there are several models"
            raise ConfigError(f"--adapter {adapter}: expected {expected}")
        if model not in found:
            raise ConfigError(f"--adapter {adapter}: no model '{model}'.{did_you_mean(model, models)}")
        if name in taken:
            raise ConfigError(f"--adapter {adapter}: the name '{name}' is taken")
        taken.add(name)
        found[model][name] = Path(path).expanduser()
    return found


def _load(
    name: str,
    path: Path,
    adapters: Mapping[str, Path],
    *,
    say: Callable[[str], None],
    slots: int,
    device: Device,
    speculate: str | None,
    guesses: int | None,
) -> Loaded:
    """What the paths hold now: a run may have got a more finished model since."""
    start = time.monotonic()
    say(f"loading {name} from {path}")
    model, tokenizer = open_model(path, device)
    speculation = Speculation.of(speculate, guesses, partial(open_model, device=device))
    engine = Engine(model, tokenizer, max_slots=slots, speculate=speculation, owns_model=not adapters)
    for called, adapter in adapters.items():
        engine.add_adapter(called, load_adapter(adapter))
    loaded = Loaded(engine, fingerprint(resolve_model(path)))
    say(f"{name} ({loaded.fingerprint}) took {time.monotonic() - start:.1f} s to load")
    return loaded


def _name_of(folder: Path) -> str:
    """What clients call the model: the name of its run (runs/NAME/stage/model), or of its folder."""
    folder = folder.resolve()
    return folder.parent.parent.name if folder.name in ("model", "hf") else folder.name

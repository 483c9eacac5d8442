"""Serve a model over OpenAI's HTTP interface. The one verb that makes no artifact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from modelwright.formats.huggingface import load_model
from modelwright.formats.locate import identify, resolve_model
from modelwright.inference.engine import Engine
from modelwright.server.app import create_app
from modelwright.server.guards import Access
from modelwright.server.listen import Server, bind
from modelwright.tokenizer.bpe import BPETokenizer


def serve(
    model_path: Path | str,
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    name: str | None = None,
    api_key: str | None = None,
    origins: Sequence[str] = (),
    slots: int = 32,
    queue_limit: int = 128,
    body_limit: int = 1 << 20,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Load a model and answer requests until interrupted.

    Port 0 lets the system choose. `on_ready` is called with the address once requests are taken.
    Beyond loopback, `api_key` and at least one exact origin are required.
    """
    listener = bind(host, port)
    try:
        host, port = listener.getsockname()[:2]
        access = Access.of(host, port, api_key, origins)
        folder = resolve_model(model_path)
        about = identify(folder)
        engine = Engine(load_model(folder, dtype, device), BPETokenizer.load(folder), max_slots=slots)
        app = create_app(
            engine,
            model=name or _name_of(folder),
            access=access,
            fingerprint=about.short_id,
            queue_limit=queue_limit,
            body_limit=body_limit,
        )
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
        Server(app, (lambda: on_ready(address)) if on_ready else None).run(sockets=[listener])
    finally:
        listener.close()


def _name_of(folder: Path) -> str:
    """What clients call the model: the name of its run (runs/NAME/stage/model), or of its folder."""
    folder = folder.resolve()
    return folder.parent.parent.name if folder.name in ("model", "hf") else folder.name

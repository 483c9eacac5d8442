"""`modelwright env`: what a bug report needs."""

from __future__ import annotations

import importlib.metadata as metadata
import json

from modelwright import __version__
from modelwright.base.run import code_revision, machine

LIBRARIES = ("torch", "tokenizers", "safetensors", "pyarrow", "gguf", "pydantic", "starlette")
READERS = ("transformers", "llama-cpp-python")
"""Independent readers that `export` verifies with, where they are installed."""


def show_environment(*, as_json: bool = False) -> None:
    """Print versions, processor and the optional readers."""
    facts = {
        "modelwright": __version__,
        "revision": code_revision(),
        **machine(),
        **{name: _version(name) for name in (*LIBRARIES, *READERS)},
    }
    print(json.dumps(facts, indent=2) if as_json else "\n".join(f"{k:18} {v}" for k, v in facts.items()))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"

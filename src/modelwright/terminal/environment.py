"""`modelwright env`: what a bug report needs, and which optional parts are installed."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import re

from modelwright import __version__
from modelwright.base.run import code_revision, machine

LIBRARIES = ("torch", "tokenizers", "safetensors", "pyarrow", "gguf", "pydantic", "starlette")
EXTRAS = {
    "data": "reading web pages and WARC, remote paths, languages",
    "pdf": "reading PDF",
    "trafilatura": "another extractor of pages' main text",
    "ray": "preparing data on a cluster",
    "structured": "answers that fit a JSON schema, a regular expression or a grammar",
    "tokenizers": "taking over tokenizers of tiktoken and sentencepiece",
    "verify": "reading exported models back with transformers",
    "judges": "reading exported GGUF files back with llama.cpp",
}
"""Extra of the package -> what it is for."""


def show_environment(*, as_json: bool = False) -> None:
    """Print versions, processor, and the optional parts with how to install what is missing."""
    facts = {
        "modelwright": __version__,
        "revision": code_revision(),
        **machine(),
        **{name: _version(name) for name in LIBRARIES},
    }
    extras = {extra: {name: _version(name) for name in packages(extra)} for extra in EXTRAS}
    if as_json:
        print(json.dumps({**facts, "extras": extras}, indent=2))
        return
    print("\n".join(f"{name:18} {value or 'not installed'}" for name, value in facts.items()))
    for extra, about in EXTRAS.items():
        found = extras[extra]
        print(f"\n{extra}: {about}")
        print("\n".join(f"  {name:16} {version or 'not installed'}" for name, version in found.items()))
        if not all(found.values()):
            print(f"  to install: pip install 'modelwright[{extra}]'")


def packages(extra: str) -> list[str]:
    """The packages of an extra, as this installation's metadata names them."""
    mark = re.compile(rf"""^([\w.-]+).*;\s*extra\s*==\s*["']{extra}["']$""")
    found = (mark.match(line) for line in metadata.requires("modelwright") or ())
    return [match[1] for match in found if match]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

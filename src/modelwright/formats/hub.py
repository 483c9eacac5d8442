"""Where a model comes from: a path, or a name on the hub, `org/name` or `org/name@revision`.

From the hub come weights as safetensors or GGUF and what describes them; code and pickles stay there. Nothing
of what is fetched is run.
"""

from __future__ import annotations

import re
from pathlib import Path

from modelwright.base.errors import UserError
from modelwright.formats.stored import DESCRIPTIONS, INDEX, WEIGHTS

_NAME = re.compile(r"(?P<name>[\w-][\w.-]*/[\w-][\w.-]*)(@(?P<revision>[\w./-]+))?")


def resolve(source: str | Path) -> Path:
    """The folder or the GGUF file that `source` means; from the hub it comes into huggingface_hub's cache.

    Of a repository that holds safetensors, these are taken; of one with a single GGUF file, that file.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    found = _NAME.fullmatch(str(source))
    if found is None:
        raise UserError(
            f"{source} does not exist, and is no name on the hub either: expected a folder, a .gguf file, or"
            " org/name[@revision]"
        )
    return _fetched(found["name"], found["revision"])


def _fetched(name: str, revision: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        files = HfApi().list_repo_files(name, revision=revision)
        weights = _weights(name, files)
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*weights, *DESCRIPTIONS]))
    except UserError:
        raise
    except Exception as error:  # the client's own, and those of the HTTP library beneath it
        words = str(error).splitlines() or ["it did not say why"]
        raise UserError(
            f"{name} is no path here and could not be fetched from the hub ({type(error).__name__}:"
            f" {words[0]}). Check the name and the network; models behind a licence need"
            " `hf auth login`. Without a network, give the folder of a copy."
        ) from error
    return folder / weights[0] if weights[0].endswith(".gguf") else folder


def _weights(name: str, files: list[str]) -> list[str]:
    """The files of weights to fetch: safetensors with their index, or the one GGUF file there is."""
    if WEIGHTS in files:
        return [WEIGHTS]
    shards = [file for file in files if file.endswith(".safetensors") and "/" not in file]
    if INDEX in files and shards:
        return shards
    gguf = [file for file in files if file.endswith(".gguf")]
    if len(gguf) == 1:
        return gguf
    if gguf:
        raise UserError(
            f"{name} holds {len(gguf)} GGUF files ({', '.join(gguf[:4])}...): download the one you want and"
            " give its path"
        )
    pickled = [file for file in files if file.endswith((".bin", ".pt", ".pth"))]
    why = "; its pickled weights can run code, and are not read" if pickled else ""
    raise UserError(
        f"{name} holds no safetensors beside its config.json and no GGUF file{why}. Choose a repository that"
        " does."
    )

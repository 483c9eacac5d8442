"""The files that git tracks."""

from __future__ import annotations

import os
import subprocess

from modelwright.base.errors import UserError

_REGULAR_FILES = ("100644", "100755")
"""Modes of entries that are neither a link nor a submodule."""


def tracked_files(folder: str) -> list[str]:
    """The paths of the regular files that git tracks in a work tree. Its own settings cannot make git run
    a program."""
    command = ["git", "-c", "core.fsmonitor=false", "-C", folder, "ls-files", "-z", "--stage"]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        made = subprocess.run(command, capture_output=True, env=environment, check=False)
    except OSError as error:
        raise UserError(f"source '{folder}': format code needs git: {error}") from error
    if made.returncode:
        said = made.stderr.decode("utf-8", "replace").strip()
        raise UserError(f"source '{folder}': format code needs a git work tree. git says: {said}")
    entries = (entry.partition(b"\t") for entry in made.stdout.split(b"\0") if entry)
    return sorted({
        os.path.join(folder, os.fsdecode(name))
        for about, _, name in entries
        if about[:6].decode() in _REGULAR_FILES
    })  # fmt: skip

"""Writes losses.json anew: `python -m tests.golden.make`.

Allowed in one case: a change is meant to change what training computes (another initialisation, rule, order
of rows or default), and says so in CHANGELOG.md. Everything else, a refactor or a faster way to compute the
same, has to leave the losses as they are. A commit that writes this file anew says which moved, and why.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from tests.golden.configurations import CONFIGURATIONS, Losses

FILE = Path(__file__).with_name("losses.json")


def make() -> dict[str, Losses]:
    """The losses of every configuration, on one thread."""
    torch.set_num_threads(1)
    found: dict[str, Losses] = {}
    for name, configuration in CONFIGURATIONS.items():
        with tempfile.TemporaryDirectory() as folder:
            found[name] = configuration.losses(Path(folder))
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=1) + "\n")

"""What training steps reach on this processor: small networks, trained a few steps at three widths and two
contexts.

How far a step stays below the rate of a large matrix product depends on the processor and on our kernels for
it: at width 256 in bf16 it was 0.51 with matrix units and 0.75 without (measured). So it is measured: forward
and backward passes of networks with the usual proportions, attention, norms and loss included, in a process
of its own, which leaves this one's memory and random state alone. It takes seconds, once for each machine and
format.

    python -m modelwright.planning.trial_steps bfloat16
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from modelwright import kernels
from modelwright.base.device import keep_freed_memory
from modelwright.base.files import sha256_file, sha256_text
from modelwright.base.schema import Batch
from modelwright.kernels import native, tiles
from modelwright.kernels.cross_entropy import linear_cross_entropy
from modelwright.model.config import ModelChoice
from modelwright.model.flops import mean_token
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.planning.activations import Batch as Rows
from modelwright.planning.machines import Machine
from modelwright.planning.measuring import best_seconds, disturbed, noted, watched
from modelwright.planning.shape import Shape

WIDTHS, CONTEXTS = (128, 256, 512), (256, 1024)
"""Beyond 512 the rate rises by another twentieth at most (measured at 1,024)."""
TOKENS, LAYERS, VOCABULARY = 2048, 2, 4096
DOCUMENT = 80
"""Tokens of a document: rows hold several, as in packed training."""
REPEATS = 3
SECONDS = 180
"""After which a machine is too slow for this."""


def with_step_rates(machine: Machine, dtype: str, say: Callable[[str], None] | None = None) -> Machine:
    """This machine with what training steps in a format reach, where it is a CPU; others, and one where no
    step can be tried, as they are. `say` gets a line before anything is measured, and one where others were
    at work meanwhile."""
    if machine.name != "here" or machine.kind != "cpu" or dtype in machine.step_rates:
        return machine
    try:
        note, share = noted(f"steps-{dtype}-{_sources()}", lambda: _in_a_process(dtype, say))
        rates = [(int(width), int(context), float(rate)) for width, context, rate in note["rates"]]
    except (subprocess.SubprocessError, LookupError, TypeError, ValueError):
        return machine
    if say and (remark := disturbed(share)):
        say(f"training steps in {dtype} were measured here{remark}: what follows from them is too slow")
    return replace(machine, step_rates={**machine.step_rates, dtype: rates})


def _sources() -> str:
    """A mark of what is measured: our kernels, and how their steps are counted here."""
    files = [*Path(kernels.__file__).parent.glob("*.[cp][py]*"), Path(__file__)]
    return sha256_text("".join(map(sha256_file, sorted(files))))[:12]


def _in_a_process(dtype: str, say: Callable[[str], None] | None) -> tuple[dict[str, Any], float]:
    if say:
        say(f"measuring what training steps in {dtype} reach on this machine: seconds, once")
    command = [sys.executable, "-m", "modelwright.planning.trial_steps", dtype]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {"rates": found["rates"], "kernels": found["kernels"]}, found["share"]


def measure(dtype: torch.dtype, widths: tuple[int, ...] = WIDTHS) -> list[tuple[int, int, float]]:
    """(width, context, FLOP/s of forward and backward by the count of `Shape.forward_flops`)."""
    return [(width, context, _rate(width, context, dtype)) for width in widths for context in CONTEXTS]


def _rate(width: int, context: int, dtype: torch.dtype) -> float:
    config = ModelChoice(depth=LAYERS, hidden_size=width).derive(VOCABULARY)
    model = Transformer(config, dtype)
    initialize(model, 0)
    rows, random = TOKENS // context, torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (rows, context), generator=random)
    documents = (torch.arange(context) // DOCUMENT).repeat(rows, 1)
    batch = Batch(ids=ids, targets=ids.roll(-1, 1), segments=documents)

    def step() -> None:
        model.zero_grad()
        output = model.on_batch(batch)
        linear_cross_entropy(output.hidden.flatten(0, 1), output.head, batch.targets.flatten()).backward()

    shape = Shape.of(config)
    flops = 3 * shape.forward_flops(_laid_out(batch, dtype).looked_at(shape)) * batch.ids.numel()
    return flops / best_seconds(step, repeats=REPEATS)


def _laid_out(batch: Batch, dtype: torch.dtype) -> Rows:
    """What the planner knows of a batch and of the kernels for it."""
    rows, context = batch.ids.shape
    return Rows(
        rows=rows,
        context=context,
        bytes=dtype.itemsize,
        document=mean_token(lambda _: batch, 1).context(),
        tiled_attention=tiles.library() is not None,
    )


def main(dtype: str) -> None:
    """Measure, and print what was found as JSON."""
    keep_freed_memory()
    wanted = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    _rate(WIDTHS[0], CONTEXTS[0], wanted)  # builds kernels where they are not built yet
    rates, share = watched(lambda: measure(wanted))
    found = {"rates": rates, "share": share, "kernels": native.describe("cpu", wanted)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])

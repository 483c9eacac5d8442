"""Fine-tuning on a CPU: our loop beside TRL's SFTTrainer and peft, and QLoRA beside LoRA.

full, lora: a Qwen3-shaped network of random weights (97M), OpenAssistant's conversations in steps of the same
number of rows, bf16 products, AdamW. Each side is a process of its own and they take turns step by step.
Counted are tokens of conversations: padding is work, and no result. TRL runs in several ways (sft_peers.py),
not compiled, with the memory setting that ours makes for itself given to it from outside; the fastest is the
peer. The first steps are not timed. Ours also watches for spikes and writes its metrics. Memory is the most
anonymous memory that a process holds in its first steps, interpreter and imports included, asked of the
kernel from outside; there TRL runs without that setting, which costs memory. Both bars are held against the
fastest way and by the same of our sides.

loss: a small network that was trained on novels first is fine-tuned by both sides, and by QLoRA, with three
seeds. What each leaves is measured on held-out conversations by the same code in fp32. "ratio" is loss over
loss: ours is no worse where it is 1 or more.

qlora: adapters beside a 1B shape of random weights in NF4 and in bf16, both with full activation
checkpointing, in turns; memory as above. Its bar, at most 0.45 of the memory, is a ratio of 2.2.

    make bench NAME=sft_cpu                # needs TRL: the extra "bench"
    python benchmarks/sft_cpu.py loss      # some cases; what the result file has of the others stays
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from gpu_cases import ONE_BILLION, Conversations
from gpu_cases import Case as RandomCase
from modelwright.base.run import code_revision
from modelwright.compression.nf4 import nf4_linear
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.training.batches import Packed
from record import RESULTS, Pace, Row, compare, interleave, peak_anonymous_bytes, publish
from sft_data import Prepared, prepare, prepared
from sft_models import random_adapted
from sft_ours import Counted, Method, load, train_ours

RANK, SEEDS = 16, (0, 1, 2)
SPEED_BAR, MEMORY_BAR, QLORA_BAR, LOSS_BAR = 1.5, 1 / 0.6, 1 / 0.45, 0.98


@dataclass(frozen=True, slots=True)
class Case:
    """A network, a step, and who takes part."""

    shape: ModelConfig
    rows: int
    context: int
    rounds: int
    warm_up: int = 2


SHAPE = ModelChoice(depth=12).derive(16_384)
CASES = {
    "full": Case(SHAPE, rows=4, context=512, rounds=6),
    "lora": Case(SHAPE, rows=4, context=512, rounds=6),
    "qlora": Case(ONE_BILLION, rows=1, context=512, rounds=6),
    "loss": Case(ModelChoice(depth=4).derive(4096), rows=8, context=512, rounds=len(SEEDS)),
}
LEAN = ", freed memory given back"
"""A side's other name where memory is what counts."""
OURS, BY_ROWS = "ours", "ours, row by row"
"""Our steps are taken all at once; and row by row, which needs less memory and takes longer."""
NF4, BF16 = "NF4", "bf16"


def work(key: str, side: str, base: str) -> None:
    """One side of a case, turn by turn, in a process of its own."""
    case = CASES[key]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if key == "qlora":
            rows = Conversations(RandomCase("", case.shape, case.context, case.rows, 1, documents=True), 40)
            model = random_adapted(
                case.shape, torch.bfloat16, "cpu", RANK, nf4_linear if side == NF4 else None
            )
            train_ours(model, Counted(rows, Pace(case.warm_up)), 40, "lora", 0, folder, checkpointing="full")
        elif side in (OURS, BY_ROWS):
            _work_ours(case, "full" if key == "full" else "lora", prepared(Path(base)), side, folder)
        else:
            _work_peer(case, None if key == "full" else RANK, prepared(Path(base)), side, folder)


def _work_ours(case: Case, method: Method, start: Prepared, side: str, folder: Path) -> None:
    parts = case.rows if side == BY_ROWS else 1
    model = load(start.model, method, RANK, seed=0)
    packed = Packed(start.train, case.rows // parts, case.context, 0, start.padding, epochs=4)
    batches = Counted(packed, Pace(case.warm_up), parts)
    train_ours(model, batches, len(packed), method, 0, folder, accumulation=parts)


def _ways() -> Mapping[str, Any]:
    from sft_peers import WAYS  # in here, since its imports are no part of our own sides' memory

    return WAYS


def _work_peer(case: Case, rank: int | None, start: Prepared, side: str, folder: Path) -> None:
    from sft_peers import Turns, make_trainer

    turns = Turns(case.warm_up)
    trainer = make_trainer(
        start,
        _ways()[side.removesuffix(LEAN)],
        folder,
        rows=case.rows,
        context=case.context,
        rate=1e-4,
        seed=0,
        epochs=4,
        rank=rank,
        turns=turns,
        keep_memory=not side.endswith(LEAN),
    )
    trainer.train()


def measure(key: str) -> tuple[list[Row], dict[str, Any]]:
    """A case: the rows that are judged, and all that was found."""
    with tempfile.TemporaryDirectory() as base:
        if key == "loss":
            return measure_loss(Path(base))
        if key != "qlora":
            prepare(Path(base), CASES[key].shape, CASES[key].context)
        return measure_steps(key, base)


def measure_steps(key: str, base: str) -> tuple[list[Row], dict[str, Any]]:
    """Speed of all sides in turns, then each one's memory alone."""

    def command(side: str) -> list[str]:
        return [sys.executable, __file__, "--side", key, side, base]

    mine, theirs = ((NF4,), (BF16,)) if key == "qlora" else ((OURS, BY_ROWS), tuple(_ways()))
    turns = interleave({side: command(side) for side in (*mine, *theirs)}, CASES[key].rounds)
    rates = {side: [turn["rate"] for turn in found] for side, found in turns.items()}
    best = max(theirs, key=lambda side: statistics.median(rates[side]))
    measured = theirs if key == "qlora" else tuple(f"{side}{LEAN}" for side in theirs)
    peaks = {side: peak_anonymous_bytes(command(side)) / 2**20 for side in (*mine, *measured)}
    speed_bar, memory_bar = (None, QLORA_BAR) if key == "qlora" else (SPEED_BAR, MEMORY_BAR)
    rows = list[Row]()
    for side in mine:
        judged = speed_bar if side == mine[0] else None
        rows.append(compare(f"{key}: {side}", "tokens/s", rates[side], rates[best], best, judged))
    for side in mine:
        for peer in measured:
            judged = memory_bar if side == mine[0] and peer.removesuffix(LEAN) == best else None
            rows.append(_less(f"{key}: {side}, memory", "MiB", [peaks[side]], [peaks[peer]], peer, judged))
    return rows, _told() | {
        "tokens_per_second": {side: statistics.median(found) for side, found in rates.items()},
        "peak_anonymous_mib": peaks,
    }


def _less(
    name: str, unit: str, ours: list[float], peer: list[float], peer_name: str, bar: float | None
) -> Row:
    """A row of figures of which the smaller are the better: the ratio is the peer's over ours."""
    found = compare(name, unit, peer, ours, peer_name, bar)
    return Row(
        name, unit, found.peer, found.ours, peer_name, found.ratio, found.low, found.high, found.rounds, bar
    )


def measure_loss(base: Path) -> tuple[list[Row], dict[str, Any]]:
    """Held-out loss of each side and seed."""
    from sft_loss import SIDES, prepare_small, tuned_loss

    case = CASES["loss"]
    begun = prepare_small(base, case.shape, case.context)
    losses = {
        side: [tuned_loss(base, side, case.rows, case.context, seed) for seed in SEEDS] for side in SIDES
    }
    pairs = (("full", "TRL, full", None), ("lora", "TRL, lora", None), ("qlora", "lora", LOSS_BAR))
    rows = [
        _less(f"loss: {ours}", "nats", losses[ours], losses[peer], peer, bar) for ours, peer, bar in pairs
    ]
    return rows, _told() | {"before": begun, "held_out_loss": losses}


def _told() -> dict[str, Any]:
    return {"revision": code_revision(), "date": datetime.now(UTC).isoformat(timespec="minutes")}


def main(keys: Sequence[str]) -> None:
    """Measure these cases, and publish them with what the result file has of the others."""
    file = RESULTS / "sft_cpu.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": [], "cases": {}}
    rows = [Row(**row) for row in before["rows"] if row["name"].partition(":")[0] not in keys]
    cases = dict(before["cases"])
    packages = ("torch", "transformers", "accelerate", "peft", "trl")
    notes = f"{torch.get_num_threads()} threads; {__doc__}"
    for key in keys:
        found, cases[key] = measure(key)
        rows = sorted([*rows, *found], key=lambda row: list(CASES).index(row.name.partition(":")[0]))
        print(json.dumps(cases[key], indent=2))
        publish("sft_cpu", rows, packages, " ".join(notes.split()), {"cases": cases})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        work(*sys.argv[2:])
    else:
        main(sys.argv[1:] or list(CASES))

"""finetune --search: short trainings with a few learning rates and ranks; the best of them on held-out data.

Rates are tried first, at the recipe's rank, from the recipe's rate outwards; then other ranks, at the best
rate. That is a cross and no grid: with the change scaled by alpha / rank, as here, the best rate hardly moves
with the rank (LoRA Without Regret, 2025). Each trial learns from the same slice and is judged on the same
held-out conversations, one by one, so that differences are paired. Time is a hard limit: a trial that is not
finished by then is given up.

Leaves `search.json`, `search.html`, and what each trial came to in `trials/`; its model is not kept.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from modelwright import __version__
from modelwright.base.artifact import Artifact, fingerprint
from modelwright.base.config import Settings
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import read_json, write_json, write_text
from modelwright.base.run import Run
from modelwright.base.world import place
from modelwright.data.readers.faults import Faults
from modelwright.evaluation.page import duration
from modelwright.evaluation.statistics import Scores
from modelwright.formats.huggingface import load_model
from modelwright.objectives.next_token import NextToken
from modelwright.stages.judging import by_objective
from modelwright.stages.new_tokens import with_tokens
from modelwright.stages.search_findings import Findings, Trial
from modelwright.stages.search_page import render, table
from modelwright.stages.search_settings import SearchConfig
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.compute import resolve

INPUTS: tuple[str, ...] = ("model",)
PLAIN: Settings = {
    "epochs": 1,
    "search": None,
    "stop_early": None,
    "keep": "last",
    "samples": None,
    "forgetting": None,
}
"""What a trial leaves out of the training that it is a trial of."""


class OutOfTime(Exception):
    """The search's time is over."""


class _TimedRun(Run):
    """A trial at work: it ends when the search's time does."""

    deadline = float("inf")

    def metric(self, step: int, **values: float | int | str) -> None:
        """Written down as ever; after each step the clock is looked at."""
        super().metric(step, **values)
        if time.monotonic() > self.deadline:
            raise OutOfTime


def check_here(config: Any) -> None:
    """Raises ConfigError where several processes were started."""
    if place().size > 1:
        raise ConfigError("--search runs in one process: search first, then train what it found in many")


class Searcher:
    """The search as a station: `stage` is the one whose settings are searched for."""

    INPUTS = INPUTS

    def __init__(self, stage: ModuleType) -> None:
        self._stage = stage
        self.sources = stage.sources

    def run(self, config: Any, run: Run) -> Artifact:
        """Try, judge, choose. The settings that were chosen are the metric `chosen`."""
        check_here(config)
        wanted = config.search or SearchConfig()
        search = _Search(self._stage, config, wanted, run)
        findings = search.find()
        if not findings.rows:
            failed = "".join(f" {trial.name}: {trial.failed}" for trial in findings.trials)
            raise UserError(
                f"no trial came to an end in {wanted.minutes:g} minutes: raise finetune.search.minutes, or"
                f" lower finetune.search.slice.{failed}"
            )
        for line in (*table(findings), *findings.sentences()):
            run.log(line)
        write_json(run.dir / "search.json", findings.as_json())
        write_text(run.dir / "search.html", render(findings))
        chosen = search.settings_of(findings.chosen.learning_rate, findings.chosen.rank)
        return run.finish(["search.json", "search.html"], {"chosen": chosen, "trials": len(findings.rows)})


class _Search:
    """One search: the trials it makes, and what has become of them."""

    def __init__(self, stage: ModuleType, config: Any, wanted: SearchConfig, run: Run) -> None:
        self._stage, self._config, self._wanted, self._run = stage, config, wanted, run
        self._adapter = config.adapter
        self._model = run.input("model").file("model")
        self._judge = _judge(config.given(run.inputs), self._model, run.seed)
        self._trials: list[Trial] = []
        self._not_tried: list[str] = []

    def find(self) -> Findings:
        """Rates first, then ranks at the best rate."""
        before = self._judge(self._model)
        self._run.log(f"held-out loss {before.value:.4f} before any training; {self._wanted.minutes:g} min")
        rank = self._adapter.rank if self._adapter else None
        for rate in self._rates():
            self._try(rate, rank)
        done = Findings(tuple(self._trials), before, ()).rows
        for other in self._ranks() if done else ():
            self._try(done[0].trial.learning_rate, other)
        return Findings(tuple(self._trials), before, tuple(self._not_tried))

    def _rates(self) -> list[float]:
        """From the recipe's outwards, so that the likeliest are tried while there is time."""
        rate = self._config.optimizer.rate
        rates = self._wanted.learning_rates or (rate / 3, rate, rate * 3)
        return sorted(set(rates), key=lambda each: max(each / rate, rate / each))

    def _ranks(self) -> Iterator[int]:
        """Those that the rates were not tried with."""
        adapter = self._adapter
        if adapter and self._config.begin_adapter is None:  # an adapter that goes on has a rank already
            ranks = self._wanted.ranks or (max(1, adapter.rank // 4), adapter.rank * 4)
            yield from (rank for rank in dict.fromkeys(ranks) if rank != adapter.rank)

    def settings_of(self, rate: float, rank: int | None) -> Settings:
        """A trial's values as a recipe states them."""
        own, optimizer = self._config.optimizer, {"learning_rate": rate}
        if own.kind == "muon":
            optimizer["matrix_learning_rate"] = own.matrix_rate * rate / own.rate
        return {"optimizer": optimizer} | ({"adapter": {"rank": rank}} if rank else {})

    def _trial_config(self, rate: float, rank: int | None) -> Any:
        config, changed = self._config, self.settings_of(rate, rank)
        update = {name: value for name, value in PLAIN.items() if name in type(config).model_fields}
        update["conversations"] = min(self._wanted.slice, config.conversations)
        update["optimizer"] = config.optimizer.model_copy(update=changed["optimizer"])
        update["validate_every"] = update["checkpoint_every"] = 10**6
        if self._adapter:
            update["adapter"] = self._adapter.model_copy(update=changed["adapter"])
        return config.model_copy(update=update)

    def _try(self, rate: float, rank: int | None) -> None:
        """Train and judge, unless that was done in an earlier session, or there is no time for it."""
        config = self._trial_config(rate, rank)
        mark = fingerprint("trial", config, self._run.seed, self._run.parents(), __version__)
        file = self._run.dir / "trials" / f"{mark[:16]}.json"
        if not file.is_file():
            self._make(file, config, rate, rank)
        if file.is_file():
            said = read_json(file)
            scores = Scores(tuple(said["losses"]), tuple(said["sizes"])) if said["losses"] else None
            trial = Trial(rate, rank, said["seconds"], scores, said["failed"])
            self._trials.append(trial)
            outcome = f"held-out loss {scores.value:.4f}" if scores else f"failed: {trial.failed}"
            self._run.log(f"{trial.name}: {outcome}, {duration(trial.seconds)}")
        else:
            self._not_tried.append(Trial(rate, rank, 0.0, None).name)

    def _make(self, file: Path, config: Any, rate: float, rank: int | None) -> None:
        """Write down what a trial came to; nothing where time is over before it is finished."""
        left = self._wanted.minutes * 60 - self._run.seconds
        if left < min((trial.seconds for trial in self._trials), default=0.0) or left <= 0:
            return
        folder, begun = file.with_suffix(""), time.monotonic()
        work = _TimedRun(folder, "finetune", "sft", config, self._run.seed, self._run.inputs)
        work.deadline, work.sampler_of = begun + left, self._run.sampler_of
        found: dict[str, Any] = {"losses": [], "sizes": [], "failed": ""}
        try:
            made = self._stage.run(config, work)
            scores = self._judge(made.file("model"))
            found |= {"losses": scores.losses, "sizes": scores.sizes}
        except OutOfTime:
            self._run.log(f"{Trial(rate, rank, 0.0, None).name}: given up, the time is over")
            return
        except UserError as error:
            found["failed"] = str(error)
        finally:
            work.close()
            self._run.timing(len(self._trials) + 1)
        write_json(file, found | {"learning_rate": rate, "rank": rank, "seconds": time.monotonic() - begun})
        shutil.rmtree(folder)


def _judge(config: Any, model: Path, seed: int) -> Callable[[Path], Scores]:
    """Model folder -> its loss on each held-out conversation of the recipe."""
    device = resolve(config.compute)
    with with_tokens(config.new_tokens, model, lambda text: None) as new:
        tokenizer = BPETokenizer.load(new.folder)
    alone = config.model_copy(update={"rows": 1, "batching": "grouped"})
    batches = alone.lay_out("validation", tokenizer, seed, Faults(config.on_error)).batches
    if len(batches) < 2:
        raise UserError(
            f"{len(batches)} held-out conversations fit {config.context} tokens, too few to judge by: add"
            " rows to finetune.sources, or raise finetune.context"
        )

    def judge(folder: Path) -> Scores:
        network = load_model(folder, device=device.name).eval()
        if folder == model:
            new.widen(network)
        network.compute_dtype = device.dtype
        return by_objective(network, NextToken(), batches, "conversations").measure()

    return judge

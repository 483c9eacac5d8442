"""evaluate: every model so far on the same problems -> scores with intervals, paired tests, samples.

Leaves `results.json` (role -> suite -> mean, low, high, n, unit), `suites.json` (what the suites ask),
`comparisons.json` (paired tests of each model against the one before it), `distributions.json` (next
tokens of a few prompts) and every answer in `samples/<role>/<suite>.jsonl`. A base model gets the chat
suites too: that it fails them is what fine-tuning is measured against.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from modelwright.base.artifact import FULL_PRECISION_MODELS, Artifact
from modelwright.base.config import Config as BaseConfig
from modelwright.base.device import choose, freed_memory_given_back, name_of
from modelwright.base.errors import UserError
from modelwright.base.files import write_json
from modelwright.base.metrics import counted, finite, in_words
from modelwright.base.run import Run
from modelwright.base.schema import Problem, Sampling
from modelwright.base.seeding import derive
from modelwright.data.sources import mark
from modelwright.environments.questions import Questions, with_own
from modelwright.environments.task import Task, higher_is_better, max_tokens_of, select, unit_of
from modelwright.evaluation.generation import graded, run_task, write_samples
from modelwright.evaluation.likelihood import as_interval, bits_per_byte
from modelwright.evaluation.statistics import Interval, holm, mean_interval, paired_difference, t_interval
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.model.transformer import Transformer
from modelwright.stages.asking import prompts_of
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards

INPUTS: tuple[str, ...] = ("models",)
OPTIONAL: tuple[str, ...] = ("tokens",)
"""Used where there are any: their held-out text, for bits per byte."""

BITS_PER_BYTE = "bits_per_byte"
SIGNIFICANT = 0.05
SHOWN_TOKENS = 10

Results = dict[str, dict[str, Any]]


class Config(BaseConfig):
    """Which suites, how much of each, and which prompts to look into."""

    suites: tuple[str, ...] = ()
    """Names of tasks (environments/tasks). None named: all but those for development, or, where there are
    `questions`, none."""
    questions: tuple[Questions, ...] = ()
    """Files of your own: rows with a question and the answers that count as right, each file a suite."""
    limit: int = Field(default=200, gt=0)
    """Problems from each suite, at most. An even sample; the same problems for every model."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer, where a task does not say itself."""
    validation_tokens: int = Field(default=25_000, ge=0)
    """Held-out tokens read for bits per byte; 0 leaves it out."""
    slots: int = Field(default=64, gt=0)
    """Answers that are generated at once."""
    prompts: tuple[str, ...] = (
        "The capital of France is",
        "The capital of Japan is",
        "Two plus three is",
        "The animal didn't cross the street because it was too",
    )
    """Prompts whose next-token distribution is kept, read as plain text."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where models run, in fp32, so that scores do not depend on what the machine is fast at."""


@dataclass(slots=True)
class Seen:
    """What was found for one model."""

    results: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[str, float]] = field(default_factory=dict)
    """Suite -> problem id -> score."""
    distributions: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    flops: float = 0.0


def check(config: Config) -> None:
    """Raises UserError where a suite is unknown, or a file of questions cannot be asked."""
    tasks_of(config)


def check_here(config: Config) -> None:
    """Raises UserError where this machine has not the device that is asked for."""
    name_of(config.device)


def tasks_of(config: Config) -> dict[str, Task]:
    """The suites, those of one's own files last."""
    known = select(config.suites) if config.suites or not config.questions else {}
    return with_own(known, config.questions)


def sources(config: Config) -> str:
    """A mark of what one's own files hold now: when it changes, the stage runs anew."""
    return mark(config.questions)


def run(config: Config, run: Run) -> Artifact:
    """Evaluate every model among the inputs."""
    models = {role: made for role, made in run.inputs.items() if role != "tokens"}
    if not models:
        raise UserError("evaluate was given no model. Run 'pretrain' first, or name one with --input.")
    tasks = tasks_of(config)
    problems = {
        name: task.problems(derive(run.seed, "problems", name), config.limit) for name, task in tasks.items()
    }
    roles = sorted(models, key=_order)
    seen: dict[str, Seen] = {}
    with run.progress("problems", len(roles) * sum(map(len, problems.values()))) as bar:
        for role in roles:  # one model at a time is in memory
            seen[role] = Seen()
            examiner = Examiner(config, run, role, models[role], seen[role])
            examiner.read()
            examiner.open_engine(tasks, problems)
            examiner.look()
            for name, task in tasks.items():
                examiner.ask(name, task, problems[name])
                bar.advance(len(problems[name]), model=role, suite=name)
            del examiner  # before the next is there
            run.log(f"{role}: {_summary(seen[role].results)}")
    comparisons = [row for pair in pairwise(roles) for row in compare(*pair, seen, tasks)]
    results = {role: found.results for role, found in seen.items()}
    write_json(run.dir / "results.json", results)
    write_json(run.dir / "suites.json", about(tasks))
    write_json(run.dir / "comparisons.json", comparisons)
    write_json(run.dir / "distributions.json", {role: found.distributions for role, found in seen.items()})
    return run.finish(
        ["results.json", "suites.json", "comparisons.json", "distributions.json", "samples"],
        {f"{role}/{suite}": row["mean"] for role, rows in results.items() for suite, row in rows.items()},
        tokens=sum(found.tokens for found in seen.values()),
        flops=sum(found.flops for found in seen.values()),
    )


class Examiner:
    """One model, and what is found for it. Its weights are there once: the plain model reads, then the engine
    takes them over and answers."""

    def __init__(self, config: Config, run: Run, role: str, artifact: Artifact, seen: Seen) -> None:
        folder = artifact.file("model")
        self._config, self._run, self._role, self._seen = config, run, role, seen
        self._device = choose(config.device, "float32").name
        with freed_memory_given_back():
            self._model: Transformer = load_model(folder, device=self._device).eval()
        self._parameters = self._model.num_active_parameters()
        self._tokenizer = BPETokenizer.load(folder)
        self._prompts = prompts_of(self._tokenizer)

    def read(self) -> None:
        """Bits per byte on validation text."""
        if not self._config.validation_tokens or "tokens" not in self._run.inputs:
            return
        shards = TokenShards.open(self._run.input("tokens").file("validation"))
        if shards.vocab_size != self._tokenizer.vocab_size:
            self._run.log(f"{self._role}: another vocabulary than the validation shards', no bits per byte")
            return
        found = bits_per_byte(
            self._model,
            _documents(shards),
            self._tokenizer.byte_lengths,
            max_tokens=self._config.validation_tokens,
            window=min(256, self._model.config.max_position_embeddings),
            device=self._device,
        )
        self._seen.results[BITS_PER_BYTE] = as_result(as_interval(found), "bits")
        self._count(found.tokens)

    def open_engine(self, tasks: Mapping[str, Task], problems: Mapping[str, Sequence[Problem]]) -> None:
        """Hand the model to an engine, whose cache is large enough for these problems and no larger."""
        longest = max(
            (
                len(self._prompts.ids(problem)) + max_tokens_of(task, self._config.max_tokens)
                for name, task in tasks.items()
                for problem in problems[name]
            ),
            default=1,
        )
        with freed_memory_given_back():
            self._engine = Engine(
                self._model,
                self._tokenizer,
                max_slots=min(self._config.slots, max(1, *map(len, problems.values()))),
                usual_length=longest,
                owns_model=True,
            )

    def look(self) -> None:
        """The next-token distributions."""
        for prompt in self._config.prompts:
            self._seen.distributions[prompt] = self._distribution(prompt)

    def _distribution(self, prompt: str) -> dict[str, Any]:
        """The likeliest next tokens, and the entropy of all of them in bits."""
        found = self._engine.next_token_distribution(self._tokenizer.encode(prompt)).double()
        best = found.topk(min(SHOWN_TOKENS, len(found)))
        pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        entropy = float(-(found * found.clamp_min(1e-300).log2()).sum())
        return {
            "entropy_bits": entropy,
            "top": [[self._tokenizer.decode([token]), probability] for token, probability in pairs],
        }

    def ask(self, name: str, task: Task, problems: Sequence[Problem]) -> None:
        """All problems of a task; samples are written, scores and their interval kept."""
        seen = self._seen
        asked = [p for p in problems if len(self._prompts.ids(p)) < self._engine.max_length]
        if too_long := len(problems) - len(asked):
            self._run.log(f"{self._role}, {name}: {counted(too_long, 'prompt')} over the context")
        sampling = Sampling(max_tokens=max_tokens_of(task, self._config.max_tokens), seed=self._run.seed)
        rollouts = run_task(task, asked, self._engine, self._prompts, sampling)
        write_samples(self._run.dir / "samples" / self._role / f"{name}.jsonl", rollouts)
        seen.scores[name] = graded(rollouts)
        read = sum(len(self._prompts.ids(rollout.problem)) for rollout in rollouts)
        self._count(read + sum(len(rollout.completion.ids) for rollout in rollouts))
        if ungraded := len(rollouts) - len(seen.scores[name]):
            self._run.log(f"{self._role}, {name}: {counted(ungraded, 'answer')} ungraded")
        if seen.scores[name]:
            values = list(seen.scores[name].values())
            unit = unit_of(task)
            interval = mean_interval(values) if unit == "share" else t_interval(values)
            cut = sum(r.completion.finish_reason == "length" for r in rollouts) / len(rollouts)
            seen.results[name] = {**as_result(interval, unit), "cut_short": cut}

    def _count(self, tokens: int) -> None:
        self._seen.tokens += tokens
        self._seen.flops += 2.0 * self._parameters * tokens


def compare(
    before: str, after: str, seen: Mapping[str, Seen], tasks: Mapping[str, Task]
) -> list[dict[str, Any]]:
    """Paired tests on the problems that both models were graded on, corrected for their number."""
    rows: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        old, new = seen[before].scores[name], seen[after].scores[name]
        both = [problem for problem in old if problem in new]
        if both:
            found = paired_difference([old[p] for p in both], [new[p] for p in both])
            rows[name] = {"before": before, "after": after, "suite": name, "unit": unit_of(task)}
            rows[name] |= {key: finite(value) for key, value in asdict(found).items()}
    corrected = holm({name: row["p_value"] for name, row in rows.items()})
    for name, row in rows.items():
        row["p_adjusted"] = corrected[name]
        row["verdict"] = verdict(row["mean"], corrected[name], higher_is_better(tasks[name]))
    return list(rows.values())


def verdict(change: float, p_value: float, higher: bool | None) -> str:
    """What may be said of a change."""
    if p_value >= SIGNIFICANT or change == 0:
        return "no difference shown"
    if higher is None:
        return "higher" if change > 0 else "lower"
    return "better" if (change > 0) == higher else "worse"


def about(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """What the suites ask, for readers of the results."""
    known = {
        name: {
            "description": task.DESCRIPTION,
            "unit": unit_of(task),
            "higher_is_better": higher_is_better(task),
        }
        for name, task in tasks.items()
    }
    bits = {"description": "Bits per byte of validation text.", "unit": "bits", "higher_is_better": False}
    return {BITS_PER_BYTE: bits, **known}


def as_result(interval: Interval, unit: str) -> dict[str, Any]:
    """An interval as `results.json` has it; an infinite bound (one problem alone) is null."""
    return {**{key: finite(value) for key, value in asdict(interval).items()}, "unit": unit}


def _documents(shards: TokenShards) -> Iterator[list[int]]:
    for start, end in pairwise(shards.boundaries):
        yield shards.read(int(start), int(end - start)).tolist()


def _summary(results: Mapping[str, Any]) -> str:
    def shown(row: Mapping[str, Any]) -> str:
        return f"{row['mean']:.1%}" if row["unit"] == "share" else f"{row['mean']:.3g} {row['unit']}"

    return ", ".join(f"{in_words(suite)} {shown(row)}" for suite, row in results.items())


def _order(role: str) -> tuple[int, str]:
    """In the order of a life; others after, by name."""
    known = list(FULL_PRECISION_MODELS)
    return (known.index(role) if role in known else len(known), role)

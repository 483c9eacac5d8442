"""Distillation on the student's own answers: what is learned and counted, and that a kill changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import ConfigError
from modelwright.base.run import Run
from modelwright.base.schema import IGNORE, Completion, Sampling
from modelwright.formats.huggingface import load_model
from modelwright.inference.engine import Engine
from modelwright.objectives.distill import SAMPLED
from modelwright.stages import finetune
from modelwright.stages.answering import sampler_of
from modelwright.stages.on_policy import ON_POLICY, OnPolicy
from modelwright.stages.teacher import TeacherConfig
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.batches import Example, Grouped, Packed
from modelwright.training.step_plan import StepPlan


class Stopped(Run):
    """A run whose process dies after some steps."""

    after = 10**9

    def metric(self, step: int, **values: float | int | str) -> None:
        super().metric(step, **values)
        if step == self.after:
            raise KeyboardInterrupt


def trained(
    folder: Path, chats: Path, parent: Artifact, teacher: dict[str, Any], after: int = 10**9, **own: Any
) -> Artifact:
    settings: dict[str, Any] = {
        "sources": [{"path": str(chats)}], "teacher": teacher, "context": 60, "rows": 1, "epochs": 2,
        "optimizer": {"kind": "adamw", "learning_rate": 3e-3}, "checkpoint_every": 4, "validate_every": 50,
        "compute": {"dtype": "float32", "compile": "never", "device": "cpu"}, **own,
    }  # fmt: skip
    config = finetune.Config.model_validate(settings)
    run = Stopped(folder, "finetune", "sft", config, 3, {"model": parent})
    run.after, run.sampler_of = after, sampler_of
    try:
        return finetune.run(config, run)
    finally:
        run.close()


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("adapter", "batching"), [(None, "packed"), (None, "grouped"), ({"kind": "lora", "rank": 4}, "packed")]
)
def test_a_kill_changes_nothing(
    parent: Artifact,
    teacher: Path,
    chats: Path,
    tmp_path: Path,
    adapter: dict[str, Any] | None,
    batching: str,
) -> None:
    way = {"model": str(teacher), "divergence": "reverse", "on_policy": 0.6, "max_tokens": 12}
    own = {"adapter": adapter, "batching": batching}
    whole = trained(tmp_path / "whole", chats, parent, way, **own)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "killed", chats, parent, way, after=7, **own)
    resumed = trained(tmp_path / "killed", chats, parent, way, **own)
    for name in ("metrics.jsonl", ON_POLICY):
        assert (tmp_path / "killed" / name).read_text() == (tmp_path / "whole" / name).read_text()
    weights, others = (load_file(made.file("model") / "model.safetensors") for made in (whole, resumed))
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    steps, written = lines_of(tmp_path / "whole" / "metrics.jsonl"), lines_of(tmp_path / "whole" / ON_POLICY)
    assert {line["step"] for line in written} == {row["step"] for row in steps if "sampled" in row}
    assert 0.2 < len(written) / len(steps) < 0.95
    assert all(line["policy_version"] == line["step"] - 1 for line in written)
    assert all(row["sampled"] == 1 and "next_token" not in row for row in steps if "sampled" in row)
    assert whole.metrics["sampled_tokens"] == sum(line["tokens"] for line in written)
    assert whole.metrics["sampled_share"] == pytest.approx(len(written) / len(steps))
    rates = lines_of(tmp_path / "whole" / "timing.jsonl")
    assert sum("sampled_tokens_per_second" in line for line in rates) == len(written)


def test_each_kind_of_token_has_a_mean_of_its_own(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path
) -> None:
    """With a rate of next to nothing, what the rows' tokens cost does not depend on who wrote the others."""
    given: dict[str, list[float]] = {}
    for name, share in (("rows", 0.0), ("both", 0.5)):
        way = {"model": str(teacher), "on_policy": share, "max_tokens": 12}
        still = {"accumulation": 4, "optimizer": {"kind": "adamw", "learning_rate": 1e-9}, "epochs": 4}
        trained(tmp_path / name, chats, parent, way, **still)
        steps = lines_of(tmp_path / name / "metrics.jsonl")
        assert not any(key.endswith("_units") for row in steps for key in row)
        mixed = [row for row in steps if name == "rows" or 0 < row.get("sampled", 0) < 1]
        given[name] = [row["next_token"] for row in mixed]
        assert all(row["own_token"] > 1 for row in mixed if name == "both")
    assert len(given["both"]) >= 3
    middle = sum(given["rows"]) / len(given["rows"])
    assert given["both"] == pytest.approx([middle] * len(given["both"]), rel=0.15)


def test_without_own_answers_all_is_as_before(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path
) -> None:
    way = {"model": str(teacher), "weight": 0.9}
    for name, more in (("before", {}), ("none", {"on_policy": 0.0, "max_tokens": 3})):
        made = trained(tmp_path / name, chats, parent, way | more)
        assert not (tmp_path / name / ON_POLICY).exists() and "sampled_share" not in made.metrics
    files = ("metrics.jsonl", "model/model.safetensors")
    assert all(
        (tmp_path / "before" / file).read_bytes() == (tmp_path / "none" / file).read_bytes() for file in files
    )


def test_a_student_comes_nearer_where_it_goes_itself(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path
) -> None:
    way = {"model": str(teacher), "divergence": "reverse", "on_policy": 1.0, "max_tokens": 12}
    trained(tmp_path / "run", chats, parent, way, epochs=4)
    apart = [row["divergence"] for row in lines_of(tmp_path / "run" / "metrics.jsonl")]
    assert sum(apart[-5:]) < 0.8 * sum(apart[:5])


def test_rare_own_answers_are_no_spikes(parent: Artifact, teacher: Path, chats: Path, tmp_path: Path) -> None:
    """When the rows are learned by heart, what the student writes itself costs several times as much."""
    way = {"model": str(teacher), "on_policy": 0.08, "max_tokens": 12}
    made = trained(tmp_path / "run", chats, parent, way, rows=4, epochs=30)
    rows = lines_of(tmp_path / "run" / "metrics.jsonl")[150:]
    own = [row["loss"] for row in rows if "sampled" in row]
    given = sorted(row["loss"] for row in rows if "sampled" not in row)
    assert len(own) > 2 and min(own) > 3 * given[len(given) // 2]
    assert made.metrics["updates_withheld"] == 0


class Canned:
    """A student who says what it is told to, and notes what it was asked."""

    def __init__(self, answers: Sequence[tuple[tuple[int, ...], str]]) -> None:
        self.answers, self.asked, self.version = answers, list[tuple[int, ...]](), -1

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        assert sampling.temperature == 1 and sampling.top_k == 0 and sampling.seed is not None
        self.asked = [tuple(prompt) for prompt in prompts]
        said = [self.answers[place % len(self.answers)] for place in range(len(prompts))]
        return [
            Completion(
                ids=ids,
                logprobs=(),
                text="",
                finish_reason="stop" if ended == "stop" else "length",
                policy_version=self.version,
            )
            for ids, ended in said
        ]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        raise NotImplementedError

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None:
        self.version = version


@pytest.fixture
def view_of(parent: Artifact, tmp_path: Path) -> Iterator[Callable[..., OnPolicy]]:
    """(given, who answers, settings of the teacher) -> the view over them."""
    runs: list[Run] = []

    def make(given: Packed | Grouped, canned: Canned | None, **settings: Any) -> OnPolicy:
        config = TeacherConfig.model_validate({"model": "teacher", "on_policy": 1.0, **settings})
        runs.append(Run(tmp_path / f"run{len(runs)}", "finetune", "sft", Config(), 3))
        runs[-1].sampler_of = None if canned is None else lambda *_, **__: canned
        model, tokenizer = load_model(parent.file("model")), BPETokenizer.load(parent.file("model"))
        plan = StepPlan(len(given), 1)
        return OnPolicy(given, config, plan, model, tokenizer, runs[-1], context=20, use_compiled=False)

    yield make
    for run in runs:
        run.close()


ROWS = [Example([7, 8, 9, 30 + n, 31, 32], [False, False, False, True, True, True]) for n in range(4)]
"""A prompt of three tokens, an answer of three."""


@pytest.mark.parametrize("make", [Packed, Grouped])
def test_exactly_the_drawn_tokens_are_learned(view_of: Any, tmp_path: Path, make: Any) -> None:
    """One ends at once, one is cut by the limit, one is longer than the row: it is learned up to there."""
    canned = Canned([((2,), "stop"), ((40, 41, 42, 43), "length"), (tuple(range(50, 80)), "length")])
    view = view_of(make(ROWS, 4, 20, 1, 0), canned)
    batch = view[0]
    assert canned.asked == [(7, 8, 9)] * 4
    wanted = [(2,), (40, 41, 42, 43), tuple(range(50, 68)), (2,)]
    learned = batch.targets[batch.targets != IGNORE]
    assert sorted(learned.tolist()) == sorted(token for ids in wanted for token in ids)
    for row in range(len(batch.ids)):
        for place in (batch.targets[row] != IGNORE).nonzero().flatten().tolist():
            before, target = int(batch.ids[row, place]), int(batch.targets[row, place])
            assert (before, target) in {(9, 2), (9, 40), (9, 50)} or target == before + 1
    assert batch.extra[SAMPLED].tolist() == [1.0] * len(batch.ids)
    (line,) = lines_of(tmp_path / "run0" / ON_POLICY)
    assert (line["answers"], line["tokens"], line["prompt_tokens"]) == (4, 1 + 4 + 30 + 1, 12)
    assert (line["ended_at_once"], line["without_end"], line["policy_version"]) == (2, 2, 0)
    assert line["dropped"] == 0
    assert view.report()["sampled_mean_length"] == 9 and view.flops() > 0


def test_there_are_never_more_rows_than_were_given(view_of: Any, tmp_path: Path) -> None:
    """Four short examples share two rows; with 12 tokens of answer only one of them fits a row of 20."""
    given = Packed(ROWS, 2, 10, 1, 0)
    view = view_of(given, Canned([(tuple(range(50, 62)), "length")]))
    batch = view[0]
    assert len(given) == 1 and batch.ids.shape == (2, 20)
    assert sum((batch.targets[row] != IGNORE).sum() for row in range(2)) == 2 * 12
    (line,) = lines_of(tmp_path / "run0" / ON_POLICY)
    assert (line["answers"], line["dropped"], view.report()["sampled_dropped"]) == (4, 2, 2)


def test_the_share_is_a_coin_that_falls_alike(view_of: Any) -> None:
    given = Grouped(ROWS * 50, 1, 20, 1, 0)
    views = [view_of(given, Canned([]), on_policy=0.3) for _ in range(2)]
    falls = [[view.is_own(index) for index in range(200)] for view in views]
    assert falls[0] == falls[1] and 35 < sum(falls[0]) < 85
    other = next(index for index in range(200) if not falls[0][index])
    assert torch.equal(views[0][other].ids, given[other].ids) and not views[0][other].extra


def test_nobody_answers(view_of: Any) -> None:
    with pytest.raises(ConfigError, match="nobody answers here"):
        view_of(Grouped(ROWS, 1, 20, 1, 0), None)


def test_prompts_have_draws_of_their_own(parent: Artifact) -> None:
    """A model to which all tokens are alike shows the random numbers."""
    model, tokenizer = load_model(parent.file("model")), BPETokenizer.load(parent.file("model"))
    torch.nn.init.zeros_(model.model.norm.weight)
    prompts, sampling = [[30 + n] for n in range(8)], Sampling(max_tokens=6, temperature=1.0, seed=1)
    alike = Engine(model, tokenizer, use_compiled=False).sample(prompts, sampling)
    own = [sampler_of(model, tokenizer, 8).sample(prompts, sampling) for _ in range(2)]
    assert len({each.ids for each in alike}) == 1 and len({each.ids for each in own[0]}) == 8
    assert [each.ids for each in own[0]] == [each.ids for each in own[1]]

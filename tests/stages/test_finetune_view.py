"""Fine-tuning's view: what fits, what is shortened, what is shown along the way, and what is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import GateRefused, UserError
from modelwright.base.files import read_json
from modelwright.base.run import Run
from modelwright.base.schema import Completion, Conversation, Message, Sampling
from modelwright.data.shorten import shorter
from modelwright.data.split import Side
from modelwright.evaluation.statistics import Scores
from modelwright.formats.huggingface import load_model
from modelwright.model.transformer import Transformer
from modelwright.stages import finetune, search
from modelwright.stages.answering import sampler_of
from modelwright.stages.average import Config as AverageConfig
from modelwright.stages.average import gather
from modelwright.stages.retention import TEXT, ForgettingConfig, Found, Retention
from modelwright.stages.samples import SAMPLES
from modelwright.stages.views import DROPPED, ConversationView, held_out_loss
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.training import loop
from modelwright.training.compute import ComputeConfig


def talk(*words: str, system: str = "") -> Conversation:
    """A user and an assistant in turns."""
    turns = [Message(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(words)]
    return Conversation(messages=(*([Message(role="system", content=system)] if system else []), *turns))


def said(conversation: Conversation) -> str:
    return "".join(message.content for message in conversation.messages)


def test_conversations_lose_their_first_turns_and_never_the_last_answer() -> None:
    assert [said(each) for each in shorter(talk(*"abcdef", system="s"))] == ["scdef", "sef"]
    assert [said(each) for each in shorter(talk(*"abcd"))] == ["cd"]
    assert [said(each) for each in shorter(talk(*"abcde"))] == ["cde"], "a question alone teaches nothing"
    assert not list(shorter(talk(*"ab", system="s")))


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Short ones, one that fits without its first turns, and one that never fits."""
    rows = [[("user", f"Say {n}."), ("assistant", f"{n}.")] for n in range(40)]
    rows += [[("user", "a " * 90), ("assistant", "b"), ("user", "c"), ("assistant", "d")]] * 2
    rows += [[("user", "Write."), ("assistant", "word " * 90)]]
    lines = [{"messages": [{"role": role, "content": text} for role, text in row]} for row in rows]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def settings_of(chats: Path, **settings: Any) -> finetune.Config:
    compute = ComputeConfig(dtype="float32", compile="never")
    few: dict[str, Any] = {"context": 60, "rows": 4, "epochs": 1, "validate_every": 3, "compute": compute}
    return finetune.Config.model_validate({"sources": [{"path": str(chats)}], **few, **settings})


def run_of(folder: Path, config: finetune.Config, parent: Artifact, sampler: Any = sampler_of) -> Run:
    run = Run(folder, "finetune", "sft", config, 3, {"model": parent})
    run.sampler_of = sampler
    return run


def loss_of(config: finetune.Config, model: Transformer, tokenizer: BPETokenizer, run: Run) -> float:
    return held_out_loss(model, config.pack("validation", tokenizer, run, 3).batches)["validation_loss"]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_is_left_out_is_listed_with_its_place(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    digests: dict[str, str] = {}
    for kind in ("drop", "truncate"):
        config = settings_of(chats, too_long=kind)
        made = finetune.run(config, run_of(tmp_path / kind, config, parent))
        dropped = lines_of(made.file(DROPPED))
        long = [row for row in dropped if row["opening"].startswith("a a")]
        assert all({"source", "file", "place"} <= row.keys() for row in dropped)
        assert [row["reason"] for row in dropped if row["opening"] == "Write."] == ["over 60 tokens"]
        wanted = "over 60 tokens" if kind == "drop" else "shortened to 2 of 4 turns"
        assert long and all(row["reason"] == wanted for row in long)
        assert DROPPED in {file.path for file in made.manifest.files}
        cut = len(long) if kind == "truncate" else 0
        assert (made.metrics["left_out"], made.metrics["shortened"]) == (len(dropped) - cut, cut)
        digests[kind] = made.metrics["view_sha256"]
        log = (tmp_path / kind / "log.txt").read_text()
        assert digests[kind] in log and ("shortened to their last turns" in log) == (kind == "truncate")
    assert digests["drop"] != digests["truncate"]


def test_so_few_rows_that_none_is_held_out_are_refused_in_words(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    chats.write_text("".join(chats.read_text().splitlines(keepends=True)[:3]))
    config = settings_of(chats)
    run = run_of(tmp_path / "few", config, parent)
    with pytest.raises(UserError, match=r"is held out.*Add rows, or name a file of its own"):
        finetune.run(config, run)
    run.close()


def test_grouped_conversations_are_learned_as_packed_ones_are(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    """At a rate of nothing, all measure the same; and the same is learned."""
    made: dict[str, Artifact] = {}
    for kind in ("packed", "grouped"):
        config = settings_of(chats, batching=kind)
        made[kind] = finetune.run(config, run_of(tmp_path / kind, config, parent))
    assert made["packed"].metrics["view_sha256"] == made["grouped"].metrics["view_sha256"]
    tokenizer, model = BPETokenizer.load(parent.file("model")), load_model(parent.file("model"))
    run = run_of(tmp_path / "measured", settings_of(chats), parent)
    with torch.no_grad():
        losses = [loss_of(settings_of(chats, batching=kind), model, tokenizer, run) for kind in made]
    run.close()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_real_conversations_measure_the_same_packed_and_padded(
    parent: Artifact, shared_data: Path, tmp_path: Path
) -> None:
    talks = shared_data / "oasst_trees" / "sft_messages.jsonl.gz"
    tokenizer, model = BPETokenizer.load(parent.file("model")), load_model(parent.file("model"))
    few = {"context": 700, "rows": 2, "validation_conversations": 24}
    found: list[float] = []
    for batching in ("packed", "grouped"):
        config = settings_of(talks, batching=batching, **few)
        run = run_of(tmp_path / batching, config, parent)
        with torch.no_grad():
            found.append(loss_of(config, model, tokenizer, run))
        run.close()
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_answers_along_the_way_change_no_bit_of_the_training(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    made: dict[str, Artifact] = {}
    for name, samples in (
        ("quiet", None),
        ("shown", {"prompts": ["Say 7."], "held_out": 1, "max_tokens": 5}),
    ):
        config = settings_of(chats, samples=samples)
        torch.manual_seed(5)
        made[name] = finetune.run(config, run_of(tmp_path / name, config, parent))
    weights = [load_file(each.file("model") / "model.safetensors") for each in made.values()]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    read = [(each.path / "metrics.jsonl").read_text() for each in made.values()]
    assert read[0] == read[1]
    rows = lines_of(made["shown"].file(SAMPLES))
    steps = sorted({row["step"] for row in rows})
    assert steps[:2] == [0, 3] and steps[-1] == made["shown"].metrics["steps"]
    assert len(rows) == 2 * len(steps) and all(row["tokens"] <= 5 for row in rows)
    assert "reference" in rows[0] and rows[1]["prompt"] == "Say 7." and "reference" not in rows[1]
    assert "step 3 answers: " in (tmp_path / "shown" / "log.txt").read_text()
    assert not (tmp_path / "quiet" / SAMPLES).exists()


def test_an_adapter_answers_along_the_way_as_the_model_that_it_is_merged_into(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    config = settings_of(
        chats, adapter={"rank": 4}, samples={"prompts": ["Say 7."], "held_out": 0, "max_tokens": 5},
        forgetting={"suites": ["arithmetic"], "limit": 3, "text_tokens": 200},
        optimizer={"learning_rate": 0.05},
    )  # fmt: skip
    made = finetune.run(config, run_of(tmp_path, config, parent))
    rows = lines_of(made.file(SAMPLES))
    tokenizer, prompt = BPETokenizer.load(made.file("model")), talk("Say 7.")
    ids = render(tokenizer, prompt, add_generation_prompt=True).ids
    for folder, row in ((parent.file("model"), rows[0]), (made.file("model"), rows[-1])):
        (answer,) = sampler_of(load_model(folder), tokenizer, 1).sample([ids], Sampling(max_tokens=5))
        assert answer.text == row["answer"]
    assert {row["suite"] for row in read_json(made.file("forgetting.json"))["compared"]} == {
        "arithmetic",
        TEXT,
    }


def test_the_last_answers_are_those_of_the_weights_that_are_handed_on(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    others = tmp_path / "others.jsonl"
    turns = [{"role": "user", "content": "Say X."}, {"role": "assistant", "content": "XYZ WVU QRK"}]
    others.write_text(json.dumps({"messages": turns}) + "\n")
    config = settings_of(
        chats, validation_sources=[{"path": str(others)}], epochs=4, keep="best",
        optimizer={"kind": "adamw", "learning_rate": 0.02},
        samples={"prompts": ["Say 7."], "held_out": 0, "max_tokens": 8},
    )  # fmt: skip
    made = finetune.run(config, run_of(tmp_path, config, parent))
    assert made.metrics["kept_step"] < made.metrics["steps"], "letters that it never says grow unlikely"
    rows = lines_of(made.file(SAMPLES))
    assert [row["step"] for row in rows].count(made.metrics["steps"]) == 1
    tokenizer = BPETokenizer.load(made.file("model"))
    ids = render(tokenizer, talk("Say 7."), add_generation_prompt=True).ids
    (answer,) = sampler_of(load_model(made.file("model")), tokenizer, 1).sample([ids], Sampling(max_tokens=8))
    assert rows[-1]["answer"] == answer.text


def test_held_out_conversations_are_read_once_for_all_that_is_done_with_them(
    parent: Artifact, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[str] = []
    read = ConversationView.read

    def counted(self: ConversationView, side: Side, *rest: Any) -> list[Conversation]:
        sides.append(side)
        return read(self, side, *rest)

    monkeypatch.setattr(ConversationView, "read", counted)
    config = settings_of(chats, adapter={"rank": 2}, samples={"held_out": 1, "max_tokens": 3})
    made = finetune.run(config, run_of(tmp_path, config, parent))
    assert sides == ["train", "validation"]
    assert (tmp_path / "log.txt").read_text().count("validation: ") == 1
    assert made.metrics["loss_before_merge"] == made.metrics["validation_loss"]


def test_samples_and_the_search_leave_out_what_training_leaves_out(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    """What the template refuses, and what is shortened until it fits."""
    folder = tmp_path / "base" / "model"
    shutil.copytree(parent.file("model"), folder)
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system.') }}{% endif %}"
    template = folder / "chat_template.jinja"
    template.write_text(refusal + template.read_text())
    base = Run(folder.parent, "pretrain", "base", Config(), 1).finish(["model"])
    turns = [{"role": "user", "content": "a " * 90}, {"role": "assistant", "content": "b"}]
    ends = [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    refused = [{"messages": [{"role": "system", "content": f"{n}"}, *ends]} for n in range(5)]
    long = [{"messages": [*turns, {"role": "user", "content": f"c{n}"}, ends[1]]} for n in range(5)]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in refused + long))
    config = settings_of(
        chats, validation_sources=[{"path": str(held_out)}], on_error="skip", too_long="truncate",
        samples={"held_out": 8, "max_tokens": 3}, search={"slice": 24, "learning_rates": [1e-3, 1e-4]},
    )  # fmt: skip
    made = finetune.run(config, run_of(tmp_path / "tuned", config, base))
    assert {row["prompt"] for row in lines_of(made.file(SAMPLES))} == {f"c{n}" for n in range(5)}
    found = search.Searcher(finetune).run(config, run_of(tmp_path / "search", config, base))
    assert read_json(found.file("search.json"))["trials"][1]["against_best"]["n"] == 5


def test_an_interrupted_tuning_leaves_what_an_unbroken_one_leaves(
    parent: Artifact, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, metrics, answers along the way and what was lost; it had measured past its checkpoint."""
    config = settings_of(
        chats, epochs=3, validate_every=2, checkpoint_every=5, keep="best", stop_early={"patience": 9},
        samples={"prompts": ["a " * 200], "held_out": 2, "max_tokens": 4}, optimizer={"learning_rate": 0.05},
        forgetting={"suites": ["arithmetic"], "limit": 3, "text_tokens": 300},
    )  # fmt: skip
    unbroken = finetune.run(config, run_of(tmp_path / "unbroken", config, parent))
    original, calls = loop._accumulate, {"n": 0}

    def interrupted(*given: Any) -> Any:
        calls["n"] += 1
        if calls["n"] == 9:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_accumulate", interrupted)
        run = run_of(tmp_path / "broken", config, parent)
        with pytest.raises(KeyboardInterrupt):
            finetune.run(config, run)
        run.close()
    assert [row["step"] for row in lines_of(tmp_path / "broken" / SAMPLES)][-1] == 8
    broken = finetune.run(config, run_of(tmp_path / "broken", config, parent))
    log = (tmp_path / "broken" / "log.txt").read_text()
    assert "resuming after step 5" in log and "1 of 3 prompts for samples exceed the model's context" in log
    assert broken.id == unbroken.id and broken.metrics == unbroken.metrics


class Canned:
    """Has nothing to say."""

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        return [Completion(ids=(1,), logprobs=(0.0,), text="", finish_reason="stop") for _ in prompts]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[0.0] * (len(ids) - 1) for ids in sequences]


@pytest.fixture
def retention(parent: Artifact, tmp_path: Path) -> Iterator[Callable[..., Retention]]:
    """Of a model that has nothing to say: what is compared is given."""
    runs: list[Run] = []

    def make(**settings: Any) -> Retention:
        config = ForgettingConfig.model_validate(
            {"suites": ["arithmetic"], "text": "", "limit": 2, **settings}
        )
        folder = parent.file("model")
        runs.append(Run(tmp_path / f"retention-{len(runs)}", "finetune", "sft", Config(), 3))
        runs[-1].sampler_of = lambda model, tokenizer, slots: Canned()  # type: ignore[assignment]
        return Retention(config, load_model(folder), BPETokenizer.load(folder), runs[-1])

    yield make
    for run in runs:
        run.close()


def solved(share: float, problems: int) -> Found:
    """A model that solves this share of the suite."""
    return Found({"arithmetic": {str(n): float(n < share * problems) for n in range(problems)}})


@pytest.mark.parametrize(
    ("after", "problems", "verdict"),
    [
        (0.9, 200, "kept"),
        (0.89, 200, "kept"),
        (0.7, 200, "forgotten"),
        (0.8, 10, "unclear"),
        (1.0, 200, "kept"),
    ],
)
def test_a_loss_is_flagged_where_it_is_too_large_and_no_chance(
    retention: Callable[..., Retention], after: float, problems: int, verdict: str
) -> None:
    compared = retention().compare(solved(0.9, problems), solved(after, problems))
    assert [row["verdict"] for row in compared] == [verdict]
    lost = compared[0]["lost"]
    assert lost["mean"] == pytest.approx(0.9 - after) and lost["low"] <= lost["mean"] <= lost["high"]


@pytest.mark.parametrize(("rise", "verdict"), [(0.01, "kept"), (0.05, "forgotten")])
def test_text_is_judged_by_its_bits(retention: Callable[..., Retention], rise: float, verdict: str) -> None:
    before = Scores(tuple(10.0 + n % 3 for n in range(40)), tuple(10.0 for _ in range(40)))
    after = Scores(tuple(bits * (1 + rise) for bits in before.losses), before.sizes)
    (row,) = retention().compare(Found(text=before), Found(text=after))
    assert (row["suite"], row["verdict"]) == (TEXT, verdict)
    assert row["lost"]["mean"] == pytest.approx(rise)


@pytest.mark.parametrize("gate", [False, True])
def test_a_gate_says_no_and_a_flag_goes_on(
    retention: Callable[..., Retention], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gate: bool
) -> None:
    watched = retention(gate=gate)
    monkeypatch.setattr(watched, "_before", solved(0.9, 100))
    monkeypatch.setattr(watched, "_measured", lambda: solved(0.5, 100))
    if gate:
        with pytest.raises(GateRefused, match=r"cost more than 0\.02 of arithmetic"):
            watched.report()
    else:
        assert watched.report() == {"forgotten": ["arithmetic"]}
    assert "forgotten" in (tmp_path / "retention-0" / "log.txt").read_text()
    assert read_json(tmp_path / "retention-0" / "forgetting.json")["compared"][0]["before"] == 0.9


def test_tuning_says_what_it_cost(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    """Of real answers and real text: a random model solves nothing, and its text gets worse or better."""
    forgetting = {"suites": ["arithmetic"], "limit": 4, "max_tokens": 4, "text_tokens": 500}
    config = settings_of(chats, forgetting=forgetting, optimizer={"learning_rate": 0.05})
    made = finetune.run(config, run_of(tmp_path, config, parent))
    rows = {row["suite"]: row for row in read_json(made.file("forgetting.json"))["compared"]}
    assert rows["arithmetic"]["verdict"] == "kept" and rows["arithmetic"]["n"] == 4
    text = rows[TEXT]
    assert text["lost"]["mean"] == pytest.approx((text["after"] - text["before"]) / text["before"])
    assert made.metrics["forgotten"] == [name for name, row in rows.items() if row["verdict"] == "forgotten"]


def test_nobody_to_ask_is_said(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    config = settings_of(chats, forgetting={"suites": ["arithmetic"]})
    run = run_of(tmp_path, config, parent, None)
    with pytest.raises(UserError, match="nobody answers here"):
        finetune.run(config, run)
    run.close()


def test_the_best_weights_of_a_tuning_are_those_that_are_handed_on(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    """A rate that is far too high: the first measurement stays the best."""
    config = settings_of(
        chats, epochs=6, keep="best", stop_early={"patience": 2}, optimizer={"learning_rate": 0.3},
        samples={"held_out": 1, "max_tokens": 3, "every": 100},
    )  # fmt: skip
    made = finetune.run(config, run_of(tmp_path, config, parent))
    measured = {
        row["step"]: row["validation_loss"]
        for row in lines_of(tmp_path / "metrics.jsonl")
        if "validation_loss" in row
    }
    best = min(measured, key=lambda step: measured[step])
    assert made.metrics["kept_step"] == best < made.metrics["steps"]
    assert [row["step"] for row in lines_of(tmp_path / SAMPLES)] == [0, made.metrics["steps"]]
    assert made.metrics["validation_loss"] == measured[best]
    tokenizer = BPETokenizer.load(made.file("model"))
    run = run_of(tmp_path / "again", config, parent)
    with torch.no_grad():
        again = loss_of(config, load_model(made.file("model")), tokenizer, run)
    run.close()
    assert again == pytest.approx(measured[best], rel=1e-6)
    candidates = gather(made, AverageConfig())
    assert f"after step {made.metrics['steps']}" in candidates
    kept, weights = candidates["last"](), load_file(made.file("model") / "model.safetensors")
    assert all(torch.equal(kept[name], weights[name]) for name in weights), (
        "the measure is what was handed on"
    )

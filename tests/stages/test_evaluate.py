"""evaluate: a life of two tiny random models, asked for real."""

from __future__ import annotations

import gc
import json
import random
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.run import Run
from modelwright.formats.huggingface import load_config, load_model
from modelwright.inference.blocks import SIZE, blocks_for
from modelwright.inference.cache import unwritten_zeros
from modelwright.inference.engine import SCRATCH
from modelwright.stages import evaluate
from modelwright.stages.evaluate import Config, Seen, compare, verdict
from modelwright.stages.report import write_report
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shard_writer import write_shards

SUITES = ("arithmetic", "capital_prefix", "coreference", "answer_length")
CONFIG = Config(
    suites=SUITES, limit=6, max_tokens=4, validation_tokens=300, prompts=("The capital of France is",)
)


@pytest.fixture
def inputs(tiny_model: Callable[..., Path], tiny_tokenizer: Path, tmp_path: Path) -> dict[str, Artifact]:
    run = tmp_path / "life"
    tokenizer = BPETokenizer.load(tiny_tokenizer)
    tokens = Run(run / "tokenize", "tokenize", "tokens", Config(), 1)
    shutil.copytree(tiny_tokenizer, tokens.dir / "tokenizer")
    words = random.Random(3)
    with write_shards(
        tokens.dir / "validation", vocab_size=tokenizer.vocab_size, end_of_text_id=tokenizer.end_of_text_id
    ) as writer:
        for number in range(6):
            text = " ".join(words.choices(["The", "capital", "of", "France", "is", "Paris."], k=30))
            ids = tokenizer.encode(text)
            writer.add(ids, document=f"{number:064x}", source="test", num_bytes=len(text))
    made = {"tokens": tokens.finish(files=["tokenizer", "validation"])}
    for stage, role in (("finetune", "sft"), ("pretrain", "base")):
        model = Run(run / stage, stage, role, Config(), 1)
        shutil.copytree(tiny_model("qwen3"), model.dir / "model")
        made[role] = model.finish(files=["model"])
    return made


def read(artifact: Artifact, name: str) -> Any:
    return json.loads((artifact.path / name).read_text(encoding="utf-8"))


def test_every_model_is_asked_the_same_and_all_of_it_is_kept(
    inputs: dict[str, Artifact], tmp_path: Path
) -> None:
    run = Run(tmp_path / "life" / "evaluate", "evaluate", "report", CONFIG, 1, inputs)
    artifact = evaluate.run(CONFIG, run)
    results = read(artifact, "results.json")
    assert list(results) == ["base", "sft"]
    assert set(results["base"]) == {"bits_per_byte", *SUITES}
    for row in results["base"].values():
        assert row["low"] <= row["mean"] <= row["high"]
    assert results["base"]["arithmetic"]["n"] == 6 and results["base"]["arithmetic"]["unit"] == "share"
    assert results["base"]["answer_length"]["unit"] == "words"
    assert results["base"] == results["sft"], "the same weights must get the same scores"

    comparisons = read(artifact, "comparisons.json")
    assert {(row["before"], row["after"]) for row in comparisons} == {("base", "sft")}
    assert {row["verdict"] for row in comparisons} == {"no difference shown"}
    for suite in SUITES:
        asked = [
            [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()]
            for path in (artifact.path / "samples" / role / f"{suite}.jsonl" for role in results)
        ]
        assert asked[0] == asked[1] and len(asked[0]) == 6
    found = read(artifact, "distributions.json")["base"]["The capital of France is"]
    probabilities = [p for _, p in found["top"]]
    assert len(probabilities) == 10 and probabilities == sorted(probabilities, reverse=True)
    assert sum(probabilities) <= 1 and found["entropy_bits"] > 0
    assert artifact.metrics["base/arithmetic"] == results["base"]["arithmetic"]["mean"]
    assert artifact.manifest.cost.tokens > 0
    assert "could not be read" not in write_report(tmp_path / "life").read_text(encoding="utf-8")


def test_one_model_at_a_time_is_held_with_a_cache_for_what_is_asked(
    inputs: dict[str, Artifact], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the next one is loaded, nothing is left of the one before it: neither weights nor cache. The
    cache has room for all slots with the longest problem, and for one sequence of the model's context."""
    gone: list[weakref.ref[Any]] = []
    caches: list[int] = []

    def load(*arguments: Any, **settings: Any) -> Any:
        gc.collect()
        assert [each for each in gone if each() is not None] == []
        model = load_model(*arguments, **settings)
        gone.extend(weakref.ref(each) for each in (model, model.model.layers[0].mlp.down_proj.weight))
        return model

    def zeros(*shape: int, dtype: torch.dtype) -> torch.Tensor:
        made = unwritten_zeros(*shape, dtype=dtype)
        caches.append(made.numel())
        gone.append(weakref.ref(made))
        return made

    monkeypatch.setattr(evaluate, "load_model", load)
    for user in ("cache", "compiled"):
        monkeypatch.setattr(f"modelwright.inference.{user}.unwritten_zeros", zeros)
    suites = ("arithmetic", "answer_length")
    config = Config(suites=suites, limit=5, max_tokens=4, slots=64, prompts=(), device="cpu")
    artifact = evaluate.run(config, Run(tmp_path / "held", "evaluate", "report", config, 1, inputs))
    assert artifact.manifest.cost.tokens > 0 and len(caches) == 4, "keys and values of two models"
    network = load_config(inputs["base"].file("model"))
    longest = 160 + 60  # the task's longest answer, and more than its prompt
    blocks = max(5 * (blocks_for(longest) + 1), blocks_for(network.max_position_embeddings)) + SCRATCH
    position = network.num_hidden_layers * network.num_key_value_heads * max(network.head_dim, 32)
    assert max(caches) <= position * SIZE * (blocks + 1)


def test_the_same_settings_give_the_same_bytes(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    config = Config(suites=("arithmetic",), limit=3, max_tokens=3, validation_tokens=0, prompts=())
    ids = [
        evaluate.run(config, Run(tmp_path / name, "evaluate", "report", config, 1, inputs)).id
        for name in ("once", "twice")
    ]
    assert ids[0] == ids[1]


def test_files_of_ones_own_are_suites_like_any_other(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} + 1?", "answer": f"{n} + 1 = {n + 1}"} for n in range(9)]
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = [{"path": str(path), "verifier": "number", "max_tokens": 3}, {"path": str(path), "name": "words"}]
    settings = {"questions": own, "limit": 6, "max_tokens": 5, "validation_tokens": 0, "prompts": []}
    config = Config.model_validate(settings)
    before = evaluate.sources(config)
    artifact = evaluate.run(config, Run(tmp_path / "own", "evaluate", "report", config, 1, inputs))
    results = read(artifact, "results.json")
    assert set(results["base"]) == {"sums", "words"}, "no other suite was named"
    assert all(row["n"] == 6 and row["low"] <= row["mean"] <= row["high"] for row in results["sft"].values())
    assert "sums.jsonl, checked by 'number'" in read(artifact, "suites.json")["sums"]["description"]
    assert {row["suite"] for row in read(artifact, "comparisons.json")} == {"sums", "words"}
    kept = (artifact.path / "samples" / "sft" / "sums.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in kept]
    assert all(len(each["ids"]) <= 3 and f"{each['target'] - 1:.0f} + 1" in str(each) for each in samples)
    path.write_text(path.read_text() + json.dumps(rows[0]) + "\n")
    assert evaluate.sources(config) != before
    twice = [own[0] | {"name": "arithmetic"}]
    clash = Config.model_validate({**settings, "suites": ["arithmetic"], "questions": twice})
    run = Run(tmp_path / "clash", "evaluate", "report", clash, 1, inputs)
    with pytest.raises(ConfigError, match="two suites are called 'arithmetic'"):
        evaluate.run(clash, run)
    run.close()


def test_no_model_and_unknown_suites_are_told(inputs: dict[str, Artifact], tmp_path: Path) -> None:
    suite = CONFIG.model_copy(update={"suites": ("arithmetik",)})
    cases = ((CONFIG, {"tokens": inputs["tokens"]}, "no model"), (suite, inputs, "Did you mean 'arithmetic'"))
    for config, given, message in cases:
        run = Run(tmp_path / "out", "evaluate", "report", config, 1, given)
        with pytest.raises(UserError, match=message):
            evaluate.run(config, run)
        run.close()


def test_comparisons_pair_by_problem_and_correct_for_their_number() -> None:
    tasks = evaluate.select(("arithmetic", "coreference"))
    many = {f"p{i}": 0.0 for i in range(12)}
    before = Seen(scores={"arithmetic": many, "coreference": {"a": 1.0, "b": 0.0}})
    after = Seen(scores={"arithmetic": {**dict.fromkeys(many, 1.0), "new": 1.0}, "coreference": {"b": 1.0}})
    rows = {row["suite"]: row for row in compare("base", "sft", {"base": before, "sft": after}, tasks)}
    assert rows["arithmetic"]["n"] == 12 and rows["coreference"]["n"] == 1
    assert rows["arithmetic"]["p_value"] == pytest.approx(2 / 2**12)
    assert rows["arithmetic"]["p_adjusted"] == pytest.approx(4 / 2**12)
    assert rows["arithmetic"]["verdict"] == "better"
    assert rows["coreference"]["verdict"] == "no difference shown"


def test_verdicts() -> None:
    assert verdict(0.1, 0.01, True) == "better" and verdict(-0.1, 0.01, True) == "worse"
    assert verdict(-3, 0.01, None) == "lower" and verdict(3, 0.01, None) == "higher"
    assert verdict(0.5, 0.05, True) == "no difference shown"

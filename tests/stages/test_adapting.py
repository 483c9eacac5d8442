"""Fine-tuning of adapters, of quantized models and of parts: what is left, and that a killed one goes on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests import children
from tests.training.together import CPU

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import ConfigError, GateRefused, UserError
from modelwright.base.following import open_run
from modelwright.base.run import Run
from modelwright.base.world import World, join
from modelwright.compression.quantize import quantize
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import load_model, save_model
from modelwright.formats.peft import load_adapter
from modelwright.model.adapters import AdapterSet
from modelwright.model.config import ModelConfig
from modelwright.model.nf4 import NF4Linear
from modelwright.model.quantized import Scheme
from modelwright.stages import adapting, finetune
from modelwright.stages.average import Config as AverageConfig
from modelwright.stages.average import gather
from modelwright.training import parallel
from modelwright.training.compute import ComputeConfig

IDS = torch.randint(0, 90, (2, 12), generator=torch.Generator().manual_seed(5))


def config_of(chats: Path, **settings: Any) -> finetune.Config:
    compute = ComputeConfig(dtype="float32", compile="never")
    few: dict[str, Any] = {"context": 60, "rows": 2, "epochs": 3, "validate_every": 4, "compute": compute}
    few |= {"checkpoint_every": 3, "validation_conversations": 20}
    return finetune.Config.model_validate({"sources": [{"path": str(chats)}], **few, **settings})


def tuned(folder: Path, config: finetune.Config, parent: Artifact) -> Artifact:
    run = Run(folder, "finetune", "sft", config, 3, {"model": parent})
    try:
        return finetune.run(config, run)
    finally:
        run.close()


def rows_of(made: Artifact) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (made.path / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": {"rank": 4}},
        {"adapter": {"rank": 4, "kind": "dora"}},
        {"adapter": {"rank": 4}, "weights": "nf4"},
    ],
    ids=["LoRA", "DoRA", "QLoRA"],
)
def test_an_adapter_learns_and_is_left_beside_the_model_that_it_was_merged_into(
    parent: Artifact, chats: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = config_of(chats, **settings)
    assert (config.optimizer.kind, config.optimizer.rate) == ("adamw", 3e-4)
    made = tuned(tmp_path, config_of(chats, **settings, optimizer={"learning_rate": 0.01}), parent)
    losses = [row["loss"] for row in rows_of(made)]
    assert losses[-1] < 0.9 * losses[0]
    assert made.metrics["adapter"] == "adapter" and made.metrics["adapter_parameters"] > 0
    assert made.metrics["loss_after_merge"] == pytest.approx(made.metrics["loss_before_merge"], abs=1e-4)
    assert {"adapter/adapter_config.json", "model/model.safetensors"} <= {f.path for f in made.manifest.files}
    base = parent.file("model")
    quantize = adapting.nf4_linear if "weights" in settings else None
    beside = load_frozen(base, torch.float32, quantize)
    if quantize is None:
        adapters = AdapterSet(beside)
        adapters.add("it", load_adapter(made.file("adapter")))
        with torch.inference_mode(), adapters.rows(["it", "it"]):
            expected = beside(IDS).logits()
    else:
        assert config.adapter is not None
        adapting.adapt(beside, config.adapter, 0, load_adapter(made.file("adapter")))
        with torch.inference_mode():
            expected = beside(IDS).logits()
    with torch.inference_mode():
        torch.testing.assert_close(
            load_model(made.file("model"))(IDS).logits(), expected, atol=2e-4, rtol=1e-4
        )
    checkpoint = max((made.path / "checkpoints").glob("step-*"))
    kept = load_file(checkpoint / "model.safetensors")
    assert kept and all(name.rpartition(".")[2] in ("a", "b", "magnitude") for name in kept)


@pytest.mark.parametrize("weights", ["auto", "nf4", "int8"])
def test_every_expert_of_a_mixture_learns_beside_weights_of_any_format(
    tiny_model: Callable[..., Path], chats: Path, tmp_path: Path, weights: str
) -> None:
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "model").symlink_to(tiny_model("qwen3_moe", **sizes))
    base = Run(tmp_path / "base", "pretrain", "base", Config(), 1).finish(["model"])
    adapter = {"rank": 2, "layers": ["*", "*.experts.*"]}
    settings = {"adapter": adapter, "weights": weights, "optimizer": {"learning_rate": 0.01}}
    made = tuned(tmp_path / "tuned", config_of(chats, **settings), base)
    losses = [row["loss"] for row in rows_of(made)]
    assert losses[-1] < 0.95 * losses[0]
    assert made.metrics["loss_after_merge"] == pytest.approx(made.metrics["loss_before_merge"], abs=1e-3)
    learned = {name: each for name, each in load_adapter(made.file("adapter")).layers.items()}
    stacks = {name: each for name, each in learned.items() if ".experts." in name}
    assert len(stacks) == 2 * 3 and all(each.b.abs().amax((1, 2)).min() > 0 for each in stacks.values())
    merged, before = load_model(made.file("model")), load_model(base.file("model"))
    frozen = load_frozen(base.file("model"), torch.float32, None)
    assert all(
        not torch.equal(merged.get_parameter(f"{n}.weight"), before.get_parameter(f"{n}.weight"))
        for n in stacks
    )
    if weights == "auto":
        adapting.adapt(frozen, adapting.AdapterConfig(), 0, load_adapter(made.file("adapter")))
        with torch.inference_mode():
            torch.testing.assert_close(merged(IDS).logits(), frozen(IDS).logits(), atol=5e-4, rtol=1e-3)


def test_training_goes_on_from_an_adapter_and_from_a_merged_model(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    first = tuned(tmp_path / "first", config_of(chats, adapter={"rank": 3}), parent)
    begun = config_of(chats, adapter={"name": "more"}, begin_adapter=first.file("adapter"))
    more = tuned(tmp_path / "more", begun, parent)
    assert len(next(iter(load_adapter(more.file("adapter")).layers.values())).a) == 3
    assert more.metrics["adapter"] == "more" and len(more.metrics["begun_with_sha256"]) == 64
    assert rows_of(more)[0]["loss"] == pytest.approx(rows_of(first)[-1]["loss"], abs=1.0)
    chained = tuned(tmp_path / "chained", config_of(chats, adapter={"rank": 2}), first)
    with pytest.raises(UserError, match="no average of their product"):
        gather(chained, AverageConfig())
    assert [each.id for each in chained.ancestry()] == [chained.id, first.id, parent.id]


def test_a_merge_that_costs_too_much_is_refused(
    parent: Artifact, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = adapting.put_adapter

    def spoil(weights: dict[str, torch.Tensor], *given: Any) -> ModelConfig:
        made = put(weights, *given)
        weights |= {name: weight * 0.5 for name, weight in weights.items()}
        return made

    monkeypatch.setattr(adapting, "put_adapter", spoil)
    with pytest.raises(GateRefused, match=r"by more than the share of 0.01"):
        tuned(tmp_path, config_of(chats, adapter={"rank": 2}), parent)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize("freeze", [{"embeddings": True, "layers": 1}, {"layers": ["model.layers.*.mlp.*"]}])
def test_what_is_frozen_keeps_its_bits(
    parent: Artifact, chats: Path, tmp_path: Path, freeze: dict[str, Any]
) -> None:
    made = tuned(tmp_path, config_of(chats, freeze=freeze), parent)
    candidates = gather(made, AverageConfig())
    before, after = (load_model(each.file("model")).state_dict() for each in (parent, made))
    still = {name for name in before if torch.equal(before[name], after[name])}
    if "embeddings" in freeze:
        assert still == {n for n in before if n.startswith(("model.embed_tokens", "model.layers.0."))}
    else:
        assert still == {n for n in before if ".mlp." in n}
    assert set(candidates["last"]()) == before.keys() - still  # a checkpoint holds what learns


def test_what_cannot_be_is_refused(parent: Artifact, chats: Path) -> None:
    with pytest.raises(ValidationError, match="go with an adapter"):
        config_of(chats, weights="nf4")
    with pytest.raises(ValidationError, match="leave out freeze"):
        config_of(chats, adapter={"rank": 2}, freeze={"embeddings": True})
    model = load_model(parent.file("model"))
    for layers, message in (
        (3, "has 2 blocks"),
        (("model.layers.7.*",), "fits no parameter"),
        (("*",), "nothing"),
    ):
        with pytest.raises(ConfigError, match=message):
            adapting.freeze(model, adapting.FreezeConfig(layers=layers))


@pytest.mark.parametrize("settings", [{"adapter": {"rank": 2}}, {}], ids=["adapter", "all weights"])
def test_a_quantized_model_is_refused_before_anything_is_trained(
    parent: Artifact, chats: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    folder = tmp_path / "int8" / "model"
    model = quantize(load_model(parent.file("model")), Scheme(8))
    save_model(folder, model, parent.file("model"))
    base = Run(folder.parent, "pretrain", "base", Config(), 1).finish(["model"])
    with pytest.raises(ConfigError, match=r"is quantized: .* Train the model that it was made from"):
        tuned(tmp_path / "tuned", config_of(chats, **settings), base)
    assert not (tmp_path / "tuned" / "checkpoints").exists()


def die_at(step: int, folder: str, base: str, chats: str, settings: dict[str, Any]) -> None:
    """In a child: train, and be killed."""
    from modelwright.training import loop

    torch.set_num_threads(1)
    calls, accumulate = [0], loop._accumulate

    def deadly(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return accumulate(*given)

    loop._accumulate = deadly
    tuned(Path(folder), config_of(Path(chats), **settings), Artifact.load(Path(base)))


@pytest.mark.parametrize("weights", ["auto", "nf4"])
def test_a_killed_training_of_an_adapter_ends_with_the_same_bits(
    parent: Artifact, chats: Path, tmp_path: Path, weights: str
) -> None:
    settings: dict[str, Any] = {"adapter": {"rank": 4, "dropout": 0.1}, "weights": weights}
    settings |= {"new_tokens": ["<n>"]} if weights == "auto" else {}
    config = config_of(chats, **settings)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        unbroken = tuned(tmp_path / "unbroken", config, parent)
        given = (str(tmp_path / "broken"), str(parent.path), str(chats), settings)
        code = children.run(tmp_path / "errors", die_at, 5, *given)
        assert code == -signal.SIGKILL, (tmp_path / "errors").read_text()
        broken = tuned(tmp_path / "broken", config, parent)
    finally:
        torch.set_num_threads(threads)
    assert rows_of(broken) == rows_of(unbroken)
    assert "resuming after step 3" in (tmp_path / "broken" / "log.txt").read_text()
    for name in ("adapter/adapter_model.safetensors", "model/model.safetensors"):
        assert (broken.path / name).read_bytes() == (unbroken.path / name).read_bytes()


def tune_together(folder: str, base: str, chats: str, settings: dict[str, Any]) -> None:
    """In a child, one of several."""
    config = config_of(Path(chats), **settings)
    run = open_run(join())(Path(folder), "finetune", "sft", config, 3, {"model": Artifact.load(Path(base))})
    try:
        finetune.run(config, run)
    finally:
        run.close()


def test_two_processes_tune_as_one_does(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"adapter": {"rank": 4}, "weights": "nf4", "new_tokens": ["<n>"], "epochs": 1}
    alone = tuned(tmp_path / "alone", config_of(chats, **settings), parent)
    given = (str(tmp_path / "together"), str(parent.path), str(chats), settings)
    codes = children.run_together(tmp_path / "errors", 2, tune_together, *given)
    assert not any(codes), (tmp_path / "errors").read_text()
    together = Artifact.load(tmp_path / "together")
    for name in ("loss", "validation_loss", "grad_norm"):
        found, expected = ([row[name] for row in rows_of(each) if name in row] for each in (together, alone))
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert together.metrics["loss_after_merge"] == pytest.approx(alone.metrics["loss_after_merge"], abs=1e-5)
    assert "2 replicas" in (together.path / "log.txt").read_text()
    cut = config_of(chats, adapter={"rank": 2}).compute.model_copy(update={"shard": "fsdp"})
    with pytest.raises(ConfigError, match=r"shard: fsdp cuts weights.*are whole in every process"):
        parallel.spread_out(torch.nn.Linear(2, 2), [], {}, cut, CPU, World(size=2), replicated=True)


def test_a_quantized_model_is_small_as_it_is_read(parent: Artifact) -> None:
    model = load_frozen(parent.file("model"), torch.bfloat16, adapting.nf4_linear)
    layers = [layer for layer in model.modules() if isinstance(layer, NF4Linear)]
    assert len(layers) == 2 * 7
    assert model.model.norm.weight.dtype == torch.float32
    assert model.model.embed_tokens.weight.dtype == torch.bfloat16

"""Sequences and words that are dealt out over real processes give the loss and the gradient of every
parameter that one process gives, and each process keeps its part of the activations.

All cases share one start of four processes; with two ways, they are two replicas."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import children
from tests.training.tiny import make_windows
from tests.training.together import CPU, SIZES
from torch import Tensor
from torch._dynamo.utils import counters
from torch.autograd.graph import saved_tensors_hooks
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from modelwright.base.device import choose
from modelwright.base.schema import IGNORE, Batch
from modelwright.base.seams import Objective, Output
from modelwright.base.world import World, join
from modelwright.evaluation.likelihood import part_of_sums
from modelwright.model.config import ModelConfig
from modelwright.model.init import first_weights, initialize
from modelwright.model.sharding import tensor_plan
from modelwright.model.transformer import Transformer
from modelwright.objectives.distill import Config, Distillation
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import DirectPreference
from modelwright.planning.activations import Batch as Rows
from modelwright.planning.activations import kept_bytes
from modelwright.planning.pieces import way_of
from modelwright.planning.shape import Shape
from modelwright.training.compute import ComputeConfig, compile_blocks
from modelwright.training.parallel import spread_out
from modelwright.training.spread import Spread

Case = dict[str, Any]
MIXTURE = {"architecture": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2}
MIXTURE |= {"moe_intermediate_size": 16, "router_aux_loss_coef": 0.1}
HEADS = {"num_key_value_heads": 4}
UNTIED = {"tie_word_embeddings": False}
CASES: dict[str, Case] = {
    "packed": {"tokens": 16},
    "one row a document": {"tokens": 16, "packed": False},
    "uneven tokens and words": {"tokens": 13, "model": {"vocab_size": 41}},
    "fewer tokens than processes": {"tokens": 1},
    "untied, z-loss": {"tokens": 8, "model": UNTIED, "objective": "z"},
    "qwen2": {"tokens": 9, "model": {"architecture": "qwen2", **UNTIED}},
    "llama": {"tokens": 9, "model": {"architecture": "llama", **UNTIED}},
    "mistral": {"tokens": 9, "packed": False, "model": {"architecture": "mistral", "sliding_window": 3}},
    "gemma": {"tokens": 9, "model": {"architecture": "gemma"}},
    "mixture": {"tokens": 9, "model": MIXTURE},
    "mixture in every second layer": {"tokens": 8, "model": MIXTURE | {"decoder_sparse_step": 2}},
    "preference": {"tokens": 9, "objective": "preference", "model": {"vocab_size": 42}},
    "an objective of all logits": {"tokens": 9, "objective": "logits", "model": {"vocab_size": 41}},
    "distillation": {"tokens": 9, "objective": "distill", "model": {"vocab_size": 41}},
}
WAYS = (2, 4)
KINDS = [(name, ways) for name in CASES for ways in WAYS if ways == 4 or name in ("packed", "mixture")]
COMPILED = ("packed", "mixture")
LIMIT = 1e-5
"""Of the largest number of a gradient: others are sums in which larger ones cancel."""
LONG: Case = {"tokens": 64, "model": {"hidden_size": 64, "intermediate_size": 160, **HEADS}}


class AllLogits:
    """An objective as somebody may write it, who knows nothing of processes."""

    def count(self, batch: Batch) -> int:
        return len(batch.supervised())

    def __call__(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return F.cross_entropy(output.logits().flatten(0, 1), batch.targets.flatten(), reduction="sum"), {}


def objective_of(case: Case, shape: ModelConfig) -> Objective:
    if case.get("objective") == "preference":
        return DirectPreference(beta=0.5)
    if case.get("objective") == "distill":
        teacher = Transformer(shape)
        initialize(teacher, 7)
        return Distillation(teacher.on_batch, Config(temperature=2.0, weight=0.5, top=5))
    if case.get("objective") == "logits":
        return AllLogits()
    return NextToken(0.3 if case.get("objective") == "z" else 0.0)


def batch_of(case: Case) -> Batch:
    """Four rows: with documents that begin anywhere, some tokens without a target."""
    batch = make_windows(rows=4, length=case["tokens"])[0]
    targets = batch.targets.clone()
    targets[1, :-1:2] = IGNORE
    packed = {"positions": batch.positions, "segments": batch.segments} if case.get("packed", True) else {}
    return Batch(
        ids=batch.ids, targets=targets, extra={"reference_logps": torch.linspace(-9, -7, 4)}, unit=2, **packed
    )


def spread_of(case: Case, ways: int, world: World) -> tuple[Spread, ModelConfig]:
    shape = ModelConfig(**(SIZES | HEADS | case.get("model", {})))
    with torch.device("meta"):
        model = Transformer(shape)
    compute, plan = ComputeConfig(tensor_parallel=ways), tensor_plan(shape, ways)
    spread = spread_out(model, model.model.layers, plan, compute, CPU, world)
    spread.fill(first_weights(model, seed=1))
    spread.module.train()
    return spread, shape


def gradients(case: Case, spread: Spread, shape: ModelConfig) -> dict[str, Tensor]:
    """The loss and whole gradients of the case's batch."""
    batch, objective = batch_of(case), objective_of(case, shape)
    part = batch.part(*(batch.units * (spread.place[0] + end) // spread.readers for end in (0, 1)))
    loss, _ = objective(spread.on_batch(part), part)
    loss.backward()
    spread.collect()
    result = {"loss": spread.add_up(loss.detach())}
    for name, piece in spread.pieces().items():
        result[name] = spread.layout.whole(
            name, piece.new_zeros(piece.shape) if piece.grad is None else piece.grad
        )
    return result


def found(case: Case, ways: int, world: World) -> dict[str, Tensor]:
    """The loss, gradients, the loads of experts, and what is measured of documents of any length."""
    spread, shape = spread_of(case, ways, world)
    result = gradients(case, spread, shape)
    spread.after_step(1.0)
    loads = spread.training_state().get("load", [])
    documents = [list(range(1, 1 + length)) for length in (2, 3, 4, 9, 12)]
    measured = part_of_sums(
        spread.module, documents, [1] * shape.vocab_size, max_tokens=10**6, window=8,
        place=spread.place[0], of=spread.readers,
    )  # fmt: skip
    summed = torch.tensor(list(spread.totals(measured).values()))
    return result | {"loads": torch.tensor(loads), "measured": summed}


def kept(case: Case, ways: int, world: World) -> float:
    """Bytes that the forward pass leaves for the backward pass in this process, without weights."""
    spread, _ = spread_of(case, ways, world)
    storages: dict[int, torch.UntypedStorage] = {}

    @torch.no_grad()
    def pack(tensor: Tensor) -> Tensor:
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        storages[local.untyped_storage().data_ptr()] = local.untyped_storage()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        output = spread.on_batch(batch_of(case))
    weights = {
        (each.to_local() if isinstance(each, DTensor) else each).untyped_storage().data_ptr()
        for each in spread.module.parameters()
    }
    assert output.hidden.requires_grad
    return sum(storage.nbytes() for address, storage in storages.items() if address not in weights)


def work(folder: Path) -> None:
    world = join()
    for name, ways in KINDS:
        tensors = found(CASES[name], ways, world)
        if world.is_first:
            save_file(tensors, folder / f"{name}, {ways}.safetensors")
    for ways in WAYS:
        (folder / f"kept {ways}, {world.rank}.json").write_text(json.dumps(kept(LONG, ways, world)))
    world.barrier()


def compile_and_work(folder: Path) -> None:
    world = join()
    for name in COMPILED:
        torch.compiler.reset()
        counters.clear()
        spread, shape = spread_of(CASES[name], 2, world)
        blocks = list(spread.module.get_submodule("model.layers").children())
        device = dataclasses.replace(CPU, compiler=True)
        compile_blocks(blocks, ComputeConfig(compile="always"), device, 0.0, lambda line: None)
        tensors = gradients(CASES[name], spread, shape)
        assert counters["stats"]["unique_graphs"] > 0
        if world.is_first:
            save_file(tensors, folder / f"{name}, compiled.safetensors")
    world.barrier()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tensor")
    errors = folder / "errors"
    assert set(children.run_together(errors, 4, work, folder)) == {0}, errors.read_text()
    return folder


def assert_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for key, tensor in tensors.items():
        scale = float(expected[key].abs().max()) if expected[key].numel() else 1.0
        where = f"{key}: " + "{}"
        torch.testing.assert_close(tensor, expected[key], rtol=LIMIT, atol=LIMIT * scale, msg=where.format)


@pytest.mark.parametrize(("name", "ways"), KINDS)
def test_losses_and_gradients_are_those_of_one_process(name: str, ways: int, results: Path) -> None:
    assert_same(load_file(results / f"{name}, {ways}.safetensors"), found(CASES[name], 1, World()))


@pytest.mark.slow
@pytest.mark.skipif(not choose("cpu", "float32").compiler, reason="torch.compile finds no compiler")
def test_compiled_blocks_have_the_same_gradients(tmp_path: Path) -> None:
    errors = tmp_path / "errors"
    assert set(children.run_together(errors, 2, compile_and_work, tmp_path)) == {0}, errors.read_text()
    for name in COMPILED:
        case = CASES[name]
        assert_same(
            load_file(tmp_path / f"{name}, compiled.safetensors"),
            gradients(case, *spread_of(case, 1, World())),
        )


def test_activations_are_dealt_out(results: Path) -> None:
    """All of a layer's, also what its products read whole."""
    alone, rows = kept(LONG, 1, World()), 4 * 64
    shared = rows * (4 * 64 + 2 * 4 * SIZES["head_dim"] + 8)  # the mask, rotations, ids
    for ways in WAYS:
        each = [json.loads((results / f"kept {ways}, {rank}.json").read_text()) for rank in range(4)]
        assert each == pytest.approx([shared + (alone - shared) / ways] * 4, rel=0.02)
        own = way_of(Shape.of(ModelConfig(**(SIZES | HEADS | LONG["model"]))), ways)
        said = kept_bytes(own, Rows(rows=4, context=64, bytes=4, ways=ways))
        assert each == pytest.approx([said] * 4, rel=0.05)

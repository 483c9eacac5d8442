"""What the planner says of a device among several is what real processes hold and send."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests import children
from tests.planning.several import LENGTH, ROWS, SIZES, main

from modelwright.base.errors import ConfigError
from modelwright.base.world import World
from modelwright.model.config import ModelConfig
from modelwright.planning.activations import Batch
from modelwright.planning.adapted import Frozen
from modelwright.planning.duration import step_seconds
from modelwright.planning.exchange import exchange
from modelwright.planning.machines import GIB, find_machine
from modelwright.planning.memory import Training, training_memory
from modelwright.planning.pieces import dealt, largest_piece, way_of
from modelwright.planning.remedies import remedies
from modelwright.planning.shape import Shape, known_shape
from modelwright.planning.sharding import Box, choose_box
from modelwright.training import parallel
from modelwright.training.compute import ComputeConfig

Task = dict[str, Any]
FSDP: Task = {"shard": "fsdp"}
HSDP: Task = {"shard": "hsdp", "shard_size": 2}
TENSOR: Task = {"tensor_parallel": 2}
SELECTIVE: Task = {"activation_checkpointing": "selective"}
AGAIN: Task = {"activation_checkpointing": "full"}
MIXTURE = {"architecture": "qwen3_moe", "num_experts": 8, "num_experts_per_tok": 2}
MIXTURE |= {"moe_intermediate_size": 32}
FEW = MIXTURE | {"num_experts": 2}
"""Fewer experts than shards: two of four processes hold none."""
TASKS: dict[int, dict[str, Task]] = {
    4: {
        "fsdp, adamw": {"compute": FSDP, "kind": "adamw"},
        "fsdp, muon, whole micro-batches": {"compute": FSDP, "kind": "muon", "accumulation": 4},
        "hsdp, muon, two micro-batches": {"compute": HSDP, "kind": "muon", "accumulation": 2},
        "fsdp x tensor, adamw": {"compute": FSDP | TENSOR, "kind": "adamw"},
        "fsdp x tensor, muon": {"compute": FSDP | TENSOR, "kind": "muon"},
        "replicas x tensor, muon": {"compute": {"shard": "none"} | TENSOR, "kind": "muon"},
        "replicas, adamw, three micro-batches": {
            "compute": {"shard": "none"},
            "kind": "adamw",
            "accumulation": 3,
        },
        "mixture, fsdp, muon": {"compute": FSDP, "kind": "muon", "model": MIXTURE},
        "mixture, fsdp x tensor, adamw": {"compute": FSDP | TENSOR, "kind": "adamw", "model": MIXTURE},
        "few experts, fsdp, adamw": {"compute": FSDP, "kind": "adamw", "model": FEW},
        "adapter": {"compute": {}, "kind": "adamw", "adapter": {"rank": 4}},
    },
    2: {
        "fsdp 2, muon": {"compute": FSDP, "kind": "muon"},
        "tensor 2, adamw": {"compute": TENSOR, "kind": "adamw"},
        "tensor 2, selective": {"compute": TENSOR | SELECTIVE, "kind": "adamw"},
        "tensor 2, computed again": {"compute": TENSOR | AGAIN, "kind": "adamw"},
        "tensor 2, mixture": {"compute": TENSOR, "kind": "muon", "model": MIXTURE},
        "tensor 2, mixture, computed again": {"compute": TENSOR | AGAIN, "kind": "adamw", "model": MIXTURE},
    },
}
SMALL = known_shape("qwen3-0.6b")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, float]]]:
    """Task -> what each process found."""
    all_of_them: dict[str, list[dict[str, float]]] = {}
    for processes, tasks in TASKS.items():
        folder = tmp_path_factory.mktemp(f"{processes}")
        file = folder / "tasks.json"
        file.write_text(json.dumps([{"name": name} | task for name, task in tasks.items()]))
        codes = children.run_together(folder / "errors", processes, main, file)
        assert not any(codes), (folder / "errors").read_text()
        each = [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(processes)]
        all_of_them |= {name: [one[name] for one in each] for name in tasks}
    return all_of_them


def planned(task: Task, processes: int) -> tuple[Shape, Training]:
    """The same training on paper, placed as the processes are."""
    asked = ComputeConfig.model_validate(task["compute"])
    box = choose_box(processes, asked.shard, asked.tensor_parallel, asked.shard_size)
    training = Training(
        batch=Batch(rows=ROWS, context=LENGTH, bytes=4),
        accumulation=task.get("accumulation", 1),
        optimizer=task["kind"],
        dtype="float32",
        checkpointing=asked.activation_checkpointing,
        box=Box(replicas=processes) if "adapter" in task else box,
        frozen=Frozen(rank=4) if "adapter" in task else None,
    )
    return Shape.of(ModelConfig(**(SIZES | task.get("model", {})))), training


EVERY = [(name, processes) for processes, tasks in TASKS.items() for name in tasks]


@pytest.mark.parametrize(("name", "processes"), EVERY)
def test_a_device_holds_what_the_forecast_says(name: str, processes: int, found: Any) -> None:
    shape, training = planned(TASKS[processes][name], processes)
    memory = training_memory(shape, training)
    for part in ("weights", "gradients", "optimizer"):
        if training.frozen and part != "optimizer":
            continue  # rows of the embedding learn there, too
        most = max(each[part] for each in found[name])
        assert getattr(memory, part) == pytest.approx(most, rel=0.05), part
    assert training.device_tokens == max(each["tokens"] for each in found[name])


@pytest.mark.parametrize(("name", "processes"), EVERY)
def test_a_device_sends_what_the_forecast_says(name: str, processes: int, found: Any) -> None:
    shape, training = planned(TASKS[processes][name], processes)
    said = exchange(shape, training)
    most = max(each["sent"] for each in found[name])
    assert said.total - said.optimizer == pytest.approx(most, rel=0.05)
    mean = sum(each["sent by the optimizer"] for each in found[name]) / processes
    assert said.optimizer == pytest.approx(mean, rel=0.15)


@given(
    st.sampled_from([1, 2, 6, 8, 16, 64]),
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from(["auto", "none", "fsdp", "hsdp"]),
    st.sampled_from([None, 1, 2, 4, 16]),
    st.sampled_from([1, 2, 4, 8]),
)
def test_devices_stand_where_processes_would(
    devices: int, node: int, how: Any, size: int | None, ways: int
) -> None:
    compute = ComputeConfig(shard=how, shard_size=size, tensor_parallel=ways)
    world = World(size=devices, local_size=min(node, devices))
    try:
        real = parallel.choose_box(compute, world)
    except ConfigError:
        with pytest.raises(ConfigError):
            choose_box(devices, how, ways, size, node)
    else:
        box = choose_box(devices, how, ways, size, node)
        assert (box.replicas, box.shards, box.tensor) == (real.replicas, real.shards, real.tensor)


def test_experts_are_dealt_out_whole() -> None:
    """Of 128 experts, 1,024 devices hold one each or none: more than 128 shards save nothing of them."""
    shape = known_shape("qwen3-30b-a3b")
    parts = [largest_piece(shape, Box(shards=shards)) * shards for shards in (1, 128, 1024)]
    assert parts[0] == pytest.approx(1) and parts[1] == pytest.approx(1, rel=0.01)
    assert 7 < parts[2] < 8


@given(st.integers(1, 16), st.integers(1, 64), st.sampled_from([1, 2]), st.integers(1, 32))
def test_every_row_of_a_step_is_dealt(units: int, accumulation: int, unit: int, readers: int) -> None:
    rows, micro = dealt(units * unit, accumulation, unit, Box(shards=readers))
    assert rows * micro * readers >= units * unit * accumulation
    assert rows <= units * unit and micro <= accumulation and rows % unit == 0


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 2, 4, 8]), st.sampled_from(["none", "full"]))
def test_more_shards_and_more_ways_are_less_memory(shards: int, ways: int, kind: Any) -> None:
    training = Training(batch=Batch(rows=16, context=1024), kind="gpu", checkpointing=kind)

    def total(box: Box) -> float:
        return training_memory(SMALL, replace(training, box=box)).total

    one = total(Box(shards=2 * shards, tensor=ways))
    assert total(Box(shards=4 * shards, tensor=ways)) < one
    assert ways == 8 or total(Box(shards=2 * shards, tensor=2 * ways)) < one


def test_ways_that_do_not_divide_the_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 tensor-parallel ways: expected a number that divides 16 query"):
        way_of(SMALL, 3)
    with pytest.raises(ConfigError, match="biases"):
        way_of(known_shape("gpt2-small"), 2)


def test_devices_without_rows_do_not_make_a_step_shorter() -> None:
    machine = find_machine("h100")
    training = {"batch": Batch(rows=8, context=2048), "kind": "gpu", "optimizer": "adamw"}
    eight, many = (
        step_seconds(SMALL, Training(**training, box=Box(replicas=count // 8, shards=8)), machine)
        for count in (8, 64)
    )
    assert many >= eight


def test_sharding_further_is_a_remedy_with_its_effect() -> None:
    shape = known_shape("llama-3.1-8b")
    one = Training(batch=Batch(rows=8, context=4096), kind="gpu", box=Box(replicas=2, shards=2))
    found = remedies(shape, one, 30 * GIB)
    assert found[0].setting == "compute.shard=fsdp" and found[0].total < training_memory(shape, one).total
    assert found[-1].total <= 30 * GIB and "sharded over" in found[-1].what


def test_an_adapter_is_a_remedy_and_beside_one_fewer_bits_are() -> None:
    """Weights beside an adapter are whole on every device, so that more devices are none."""
    shape = known_shape("llama-3.1-8b")
    whole = Training(batch=Batch(rows=8, context=4096), kind="gpu", adaptable=True)
    assert "LoRA" in remedies(shape, whole, 40 * GIB)[-1].what
    beside = replace(whole, box=Box(replicas=4), frozen=Frozen(rank=16), adaptable=False)
    found = remedies(shape, beside, 9 * GIB)
    assert found[-1].setting == "weights=nf4" and not any("FSDP" in each.what for each in found)


def test_what_is_sent_is_said_by_whom_it_goes_to() -> None:
    shape = known_shape("llama-3.1-8b")
    training = Training(batch=Batch(rows=64, context=8192), kind="gpu", box=Box(replicas=8, shards=8))
    said = asdict(exchange(shape, training))
    p = shape.parameters
    blocks = p - 2 * shape.embedding - shape.hidden
    assert said["shards"] == pytest.approx((2 * (p + blocks) + 4 * p) * 7 / 8)
    assert said["replicas"] == pytest.approx(2 * 4 * p / 8 * 7 / 8) and said["tensor"] == 0
    assert exchange(shape, Training(batch=training.batch)).total == 0

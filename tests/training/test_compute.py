"""What is compiled, how often, and what activation checkpointing keeps: on paths that a GPU takes, as far as
a CPU can follow them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.attention.flex_attention as flex_attention
from tests.training.tiny import make_model
from torch.utils.checkpoint import CheckpointPolicy

from modelwright.base.device import Device
from modelwright.base.schema import Batch
from modelwright.kernels import flex
from modelwright.model.transformer import Transformer
from modelwright.training import recompute
from modelwright.training.compute import ComputeConfig, compile_blocks

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of many kinds, as it compiles
SIZES = [32 * number for number in range(1, 12)]
"""More than torch compiles one by one for a function before it gives up (8)."""


@pytest.fixture(autouse=True)
def _nothing_is_compiled() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def row(length: int, segments: torch.Tensor | None = None) -> Batch:
    ids = torch.arange(2 * length).view(2, length) % 40
    return Batch(ids=ids, targets=ids, segments=segments)


def test_rows_of_many_lengths_are_compiled_for_all_lengths_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, calls = list[Any](), list[int]()

    def make(graph: torch.fx.GraphModule, inputs: Any, **settings: Any) -> Callable[..., Any]:
        graphs.append(graph)

        def run(*given: Any) -> Any:
            calls.append(1)
            return graph.forward(*given)

        return run

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", make)
    model, plain = make_model(), make_model()
    device = Device("cpu", torch.float32, 1, True)
    compile_blocks(model.model.layers, ComputeConfig(compile="always"), device, 0.0, lambda line: None)
    for length in SIZES:
        calls.clear()
        found = model.on_batch(row(length)).hidden
        assert len(calls) == len(model.model.layers), f"{length} tokens run eagerly"
        torch.testing.assert_close(found, plain.on_batch(row(length)).hidden, rtol=1e-4, atol=1e-5)
    assert len(graphs) <= 3


@pytest.mark.parametrize(("ways", "graphs"), [(4, 3), (3, 4)])
def test_ways_that_do_not_divide_padded_lengths_are_compiled_one_by_one(
    ways: int, graphs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's compiler does not end on unknown sizes that are dealt out unevenly. 4 lengths in all."""
    made = list[Any]()

    def make(graph: torch.fx.GraphModule, inputs: Any, **settings: Any) -> Callable[..., Any]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", make)
    model, device = make_model(), Device("cpu", torch.float32, 1, True)
    config = ComputeConfig(compile="always", tensor_parallel=ways)
    compile_blocks(model.model.layers, config, device, 0.0, lambda line: None)
    for length in (32, 64, 96, 128):
        model.on_batch(row(length))
    assert len(made) <= graphs and (len(made) == 4 or ways == 4)


def test_the_log_names_what_a_compiler_is_missing() -> None:
    said: list[str] = []
    device = Device("cuda", torch.bfloat16, 1, False, "python's headers (python3-dev)")
    compile_blocks([], ComputeConfig(compile="always"), device, 0.0, said.append)
    assert "running eagerly (no compiler found: python's headers (python3-dev))" in said[0]


Kept = dict[str, set[CheckpointPolicy]]


def gradients(model: Transformer, batch: Batch) -> list[torch.Tensor]:
    hidden = model.on_batch(batch).hidden
    hidden.backward(torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0)))
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


@pytest.fixture
def decisions(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """Operation -> what was decided of it."""
    found: Kept = {}
    decide = recompute._policy

    def decided(context: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
        policy = decide(context, operation, *inputs, **named)
        found.setdefault(str(operation), set()).add(policy)
        return policy

    monkeypatch.setattr(recompute, "_policy", decided)
    return found


@pytest.mark.parametrize("compiled", [False, True])
def test_selective_checkpointing_keeps_attention_within_documents(
    compiled: bool, decisions: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "usable", lambda segments: True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)  # no backward on a CPU
    batch = row(256, (torch.arange(256) // 100).expand(2, -1).contiguous())
    model, plain = make_model(), make_model()
    recompute.recompute(model.model.layers, "selective")
    for block in model.model.layers if compiled else ():
        block.compile(backend="aot_eager")
    torch.testing.assert_close(gradients(model, batch), gradients(plain, batch), rtol=1e-3, atol=1e-3)
    assert decisions["flex_attention"] == {CheckpointPolicy.MUST_SAVE}

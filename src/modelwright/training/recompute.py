"""Activation checkpointing: keep little in the forward pass, compute it again in the backward pass.

"full" keeps the input of a block alone (arXiv 1604.06174): a third more arithmetic, and the memory of one
block's activations in place of all. "selective" also keeps what matrix products and attention returned, and
computes the cheap rest again (arXiv 2205.05198): most of the memory for a few per cent of time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from modelwright.base.device import give_back_freed_memory

KEPT = (
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten._scaled_mm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.higher_order.flex_attention,
)
"""What "selective" keeps. Products of scores in written-out attention (bmm) are large and not among them."""


def recompute(blocks: Iterable[nn.Module], kind: Literal["full", "selective"], every: int = 1) -> int:
    """Make each `every`-th block compute again what its backward pass needs; returns how many do.

    Names of parameters stay as they are. Nothing in a block is random, so that no generator's state is kept.
    "full" also has this process give back freed memory on a CPU: what it saves would be lost between the
    tensors that stay and those that come and go (measured: 180 MiB beside a 1B model in 4 bits).
    """
    if kind == "full":
        give_back_freed_memory()
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if kind == "selective":
        settings["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    chosen = [block for number, block in enumerate(blocks) if number % every == every - 1]
    for block in chosen:
        block.forward = _again(block.forward, settings)
    return len(chosen)


def _again(forward: Callable[..., Any], settings: dict[str, Any]) -> Callable[..., Any]:
    def checkpointed(*inputs: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **named)
        return checkpoint(forward, *inputs, **named, **settings)

    return checkpointed


def _policy(context: Any, operation: Any, *inputs: Any, **named: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in KEPT else CheckpointPolicy.PREFER_RECOMPUTE

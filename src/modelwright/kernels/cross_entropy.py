"""Cross-entropy from hidden states, without ever holding all logits.

Logits of B x T tokens over V words are by far the largest tensor of a training step. All functions
walk over the tokens in chunks and keep only what they return.

- `linear_cross_entropy`: the sum of the losses. Gradients are made in the forward pass, chunk by
  chunk, while the logits are at hand (the way of Liger Kernel, arXiv 2410.10989).
- `regularised_cross_entropy`: the same and the z-loss, z x (log of the softmax's denominator)^2 for each
  token, which keeps logits from drifting away (PaLM, arXiv 2204.02311, section 5).
- `token_logprobs`: one log-probability per token, for objectives that weigh tokens themselves.
  Logits are computed again in the backward pass.

Where processes share out the words of the head (`base.seams.Words`), each makes the logits of its own words.
Normalizers and the targets' logits are exchanged chunk by chunk; the gradient of the hidden states, to which
every word adds, is summed once.

`reference_logprobs` is the plain version that both are tested against.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.base.device import can_compile_for_gpu
from modelwright.base.seams import Words
from modelwright.kernels import native
from modelwright.kernels.linear import add_weight_gradient

CHUNK = 512
"""Tokens at a time, at the least. 512 x 4096 fp32 logits are 8 MiB: the passes over them stay in a CPU's
caches, where 2048 tokens took about four times as long per token (measured on two Sapphire Rapids cores)."""
FUSED_CHUNK = 2**24
"""Logits at a time where the compiled kernel reads each row once: larger products are faster ones, and the
gradient of the head is added up in fewer parts. 32 MiB in bf16; with half of it the loss of 2048 tokens over
16,384 words took 7 % longer (measured on two Zen 5 cores)."""
PART = 64
"""Tokens in the smallest part of a chunk on a CPU. Fine-tuning has another number of supervised tokens in
every batch, and the library that multiplies there in bf16 makes and keeps a program for every size it sees:
7 MB a step (measured; 4096 words), until a thousand are kept."""
CUDA_CHUNK = 2**28
"""Logits at a time on a GPU (512 MiB in bf16): enough rows to fill it, and few launches. Not yet measured."""
GPU_SHARE = 128
"""Bytes of a GPU's memory for each of them, at the least: in bf16 they take a 64th of it, so 128 MiB on a
card of 8 GiB, where 512 would stand beside a model that barely fits."""
COPIES = 8
"""fp32 tensors of the size of a chunk that judging it in many passes takes, about: on a GPU chunks are
smaller by this, where no compiler fuses the passes."""


def reference_logprobs(hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:
    """(N,) log p(target) from (N, D) hidden and (V, D) head, in fp32, all logits at once."""
    logits = (hidden @ head.to(hidden.dtype).T).float()
    return -F.cross_entropy(logits, targets, reduction="none")


def reference_normalizers(hidden: Tensor, head: Tensor) -> Tensor:
    """(N,) log of the sum of exponentials of each token's logits, in fp32, all logits at once."""
    return (hidden @ head.to(hidden.dtype).T).float().logsumexp(-1)


def linear_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, chunk: int | None = None) -> Tensor:
    """Sum over N tokens of -log p(target), in nats. hidden (N, D), head (V, D), targets (N,) int64."""
    return regularised_cross_entropy(hidden, head, targets, 0.0, chunk)[0]


def regularised_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    z: float,
    chunk: int | None = None,
    words: Words | None = None,
) -> tuple[Tensor, Tensor]:
    """(sum over N tokens of -log p(target) + z n^2, the z-loss's part of it, without a gradient), where n is
    the log of the softmax's denominator. With z = 0 it costs nothing. `words`: which rows of a head that is
    shared out these are."""
    needs_gradient = torch.is_grad_enabled() and (hidden.requires_grad or head.requires_grad)
    size = chunk or _chunk(hidden, head, words)
    return _SummedCrossEntropy.apply(hidden, head, targets, z, size, needs_gradient, words)  # type: ignore[no-any-return]


def token_logprobs(
    hidden: Tensor, head: Tensor, targets: Tensor, chunk: int | None = None, words: Words | None = None
) -> Tensor:
    """(N,) log p(target) in fp32; `words` as above."""
    size = chunk or _chunk(hidden, head, words)
    return _TokenLogprobs.apply(hidden, head, targets, size, words)  # type: ignore[no-any-return]


def chunk_size(words: int, gpu_memory: float = 0.0, *, fused: bool) -> int:
    """Tokens at a time, each with logits over so many words: on a GPU with so many bytes of memory, or on a
    CPU (0). `fused`: one compiled pass reads them. The planner asks here as well."""
    logits = gpu_logits(gpu_memory, fused=fused) if gpu_memory else FUSED_CHUNK if fused else 0
    return max(CHUNK, logits // words)


def gpu_logits(memory: float, *, fused: bool) -> int:
    """Logits at a time on a GPU with so many bytes of memory."""
    return min(CUDA_CHUNK, int(memory / GPU_SHARE)) // (1 if fused else COPIES)


@cache
def memory_of(device: torch.device) -> float:
    """Bytes of a GPU's memory; 0 for what is none."""
    return float(torch.cuda.get_device_properties(device).total_memory) if device.type == "cuda" else 0.0


def _chunk(hidden: Tensor, head: Tensor, words: Words | None) -> int:
    rows, memory = head.shape[0] if words is None else words.most, memory_of(hidden.device)
    return chunk_size(rows, memory, fused=can_compile_for_gpu() if memory else native.usable(hidden))


def chunks(x: Tensor, chunk: int) -> list[tuple[slice, Tensor]]:
    """The rows of x in parts: where each is, and it. On a CPU the parts of what whole chunks leave over have
    few sizes, chunk / 2, chunk / 4 and so on down to PART; behind the last part stand rows of zeros."""
    total, start, parts = x.shape[0], 0, list[tuple[slice, Tensor]]()
    while start < total:
        while chunk > total - start and chunk > PART and x.device.type == "cpu":
            chunk = max(PART, chunk // 2)
        part = slice(start, min(start + chunk, total))
        missing = chunk - (part.stop - start) if x.device.type == "cpu" else 0
        parts.append((part, F.pad(x[part], (0, 0, 0, missing)) if missing else x[part]))
        start = part.stop
    return parts


def _logprobs(
    logits: Tensor, targets: Tensor, weights: Tensor | None, z: float = 0.0, words: Words | None = None
) -> tuple[Tensor, Tensor | None]:
    """(N,) log p(target) in fp32, and where z is not 0, (N,) normalizers n. With `weights`, (N,) or one for
    all, the (N, V) logits are overwritten by the gradient of sum(weights * (log p(target) - z n^2)), which is
    weights * (onehot - softmax * (1 + 2 z n))."""
    if words is not None:
        return _shared_logprobs(logits, targets, weights, z, words)
    if native.usable(logits):
        targets = _checked(targets, logits.shape[1])
        found = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
        normalizers = torch.empty_like(found) if z else None
        stride = 0 if weights is None or weights.ndim == 0 else 1
        output = (found, normalizers, z)
        native.call("cross_entropy", logits.dtype, logits, targets, weights, stride, *output, *logits.shape)
        return found, normalizers
    if logits.device.type == "cuda":
        return _fused(one_pass, logits, targets, weights, z)
    normalizers = logits.float().logsumexp(-1) if z else None
    log_probabilities = logits.float().log_softmax(-1)
    found = log_probabilities.gather(1, targets[:, None]).squeeze(1)
    if weights is not None:
        gradient = log_probabilities.exp_().neg_()
        if normalizers is not None:
            gradient.mul_((1 + 2 * z * normalizers)[:, None])
        gradient[torch.arange(len(targets), device=targets.device), targets] += 1.0
        logits.copy_(gradient.mul_(weights if weights.ndim == 0 else weights[:, None]))
    return found, normalizers


def _shared_logprobs(
    logits: Tensor, targets: Tensor, weights: Tensor | None, z: float, words: Words
) -> tuple[Tensor, Tensor]:
    """The same from (N, v) logits of this process's words."""
    places = targets - words.first
    known = _fused(known_here, logits, places)
    normalizers, found = words.gathered(known).unbind(1)
    offset = normalizers.logsumexp(0)
    if weights is not None:
        _fused(slope_here, logits, places, offset, weights, z)
    return found.amax(0) - offset, offset


def known_here(logits: Tensor, places: Tensor) -> Tensor:
    """(2, N) what some words' logits (N, v) tell of all: the log of the sum of their exponentials, and the
    target's logit, or -inf where its place is not among theirs. So a target that is no word at all costs inf,
    which no training takes for a loss."""
    wide = logits.float()
    hit = torch.arange(logits.shape[1], device=logits.device) == places[:, None]
    return torch.stack((wide.logsumexp(-1), torch.where(hit, wide, float("-inf")).amax(-1)))


def slope_here(logits: Tensor, places: Tensor, offset: Tensor, weights: Tensor, z: float) -> None:
    """Overwrite (N, v) logits by the gradient, given all words' normalizers (N,)."""
    hit = torch.arange(logits.shape[1], device=logits.device) == places[:, None]
    share = (logits.float() - offset[:, None]).exp() * (1 + 2 * z * offset)[:, None]
    logits.copy_((hit.float() - share) * (weights if weights.ndim == 0 else weights[:, None]))


def _fused(function: Callable[..., Any], logits: Tensor, *rest: Any) -> Any:
    """Compiled where there is a compiler for GPUs; in evaluation too, where blocks run eagerly."""
    if logits.device.type != "cuda" or torch.compiler.is_compiling() or not can_compile_for_gpu():
        return function(logits, *rest)
    with torch.compiler.set_stance("default"):
        return _compiled(function)(*of_any_rows(logits, *rest))


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def of_any_rows(*values: Any) -> tuple[Any, ...]:
    """The same values, to be compiled for any number of rows at once. The words stay the number that they
    are: where a compiler does not know it, rows may begin anywhere, and it reads them number by number."""
    for value in values:
        if isinstance(value, Tensor) and value.ndim:
            torch._dynamo.maybe_mark_dynamic(value, 0)
    return values


def one_pass(
    logits: Tensor, targets: Tensor, weights: Tensor | None, z: float = 0.0
) -> tuple[Tensor, Tensor | None]:
    """The same without addressed writes and without an fp32 copy of the logits, once a compiler has fused
    it: a GPU reads the logits twice and writes the gradient once."""
    wide = logits.float()
    offset = wide.logsumexp(-1, keepdim=True)
    found = (wide.gather(1, targets[:, None]) - offset).squeeze(1)
    if weights is not None:
        hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
        scale = weights if weights.ndim == 0 else weights[:, None]
        share = (wide - offset).exp()
        logits.copy_((hit.float() - (share * (1 + 2 * z * offset) if z else share)) * scale)
    return found, offset.squeeze(1) if z else None


def _checked(targets: Tensor, vocab_size: int) -> Tensor:
    """Contiguous int64 targets, all of them words of the vocabulary: they are used as addresses."""
    lowest, highest = (int(bound) for bound in targets.aminmax()) if len(targets) else (0, 0)
    if not 0 <= lowest <= highest < vocab_size:
        raise IndexError(
            f"targets reach from {lowest} to {highest}, expected 0 to {vocab_size - 1}: positions without "
            "loss have to be left out before"
        )
    return targets.long().contiguous()


class _SummedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        z: float,
        chunk: int,
        needs_gradient: bool,
        words: Words | None,
    ) -> tuple[Tensor, Tensor]:
        cast = head.to(hidden.dtype)
        total, squares = torch.zeros(2, dtype=torch.float32, device=hidden.device).unbind()
        minus_one = torch.full((), -1.0, device=hidden.device) if needs_gradient else None
        d_hidden = torch.empty_like(hidden) if needs_gradient else None
        learns = needs_gradient and ctx.needs_input_grad[1]  # adapters leave the head frozen
        d_head = torch.zeros_like(head, dtype=torch.float32) if learns else None
        for part, rows in chunks(hidden, chunk):
            logits, count = rows @ cast.T, part.stop - part.start
            found, normalizers = _logprobs(logits[:count], targets[part], minus_one, z, words)
            total = total - found.sum()
            if z and normalizers is not None:
                squares = squares + z * normalizers.square().sum()
            if d_hidden is not None:
                logits[count:] = 0
                d_hidden[part] = (logits @ cast)[:count]
            if d_head is not None:
                add_weight_gradient(d_head, logits, rows)
        if d_hidden is not None and words is not None:
            d_hidden = words.add_up(d_hidden)
        ctx.save_for_backward(d_hidden, d_head)
        ctx.mark_non_differentiable(squares)
        return (total + squares if z else total), squares

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_head = ctx.saved_tensors
        d_head = None if d_head is None else d_head * upstream[0]
        return d_hidden * upstream[0].to(d_hidden.dtype), d_head, *[None] * 5


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, chunk: int, words: Words | None
    ) -> Tensor:
        cast = head.to(hidden.dtype)
        found = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        for part, rows in chunks(hidden, chunk):
            logits = (rows @ cast.T)[: part.stop - part.start]
            found[part] = _logprobs(logits, targets[part], None, words=words)[0]
        ctx.save_for_backward(hidden, head, targets)
        ctx.chunk, ctx.words = chunk, words
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, head, targets = ctx.saved_tensors
        cast = head.to(hidden.dtype)
        weights = upstream[0].contiguous()
        d_hidden = torch.empty_like(hidden)
        d_head = torch.zeros_like(head, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for part, rows in chunks(hidden, ctx.chunk):
            logits, count = rows @ cast.T, part.stop - part.start
            _logprobs(logits[:count], targets[part], weights[part], words=ctx.words)
            logits[count:] = 0
            d_hidden[part] = (logits @ cast)[:count]
            if d_head is not None:
                add_weight_gradient(d_head, logits, rows)
        if ctx.words is not None:
            d_hidden = ctx.words.add_up(d_hidden)
        return d_hidden, None if d_head is None else d_head.to(head.dtype), None, None, None

"""Attention on CPUs that multiply bf16: `tiles.cpp` on tensors, with its gradient.

Only where it can be built and the processor has AVX512-BF16 or Intel AMX, for bf16, fresh keys (as many as
queries) and heads of a multiple of 32. Callers take `explicit` or torch's fused attention elsewhere
(kernels/attention.py); results agree within the rounding of bf16, and these are the nearer ones to fp32.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modelwright.kernels import native, tiles

MAX_HEAD = 256
PANEL = 32
"""Positions that `tiles.cpp` treats together."""


def usable(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> bool:
    """Whether these can be attended to here: (B, H, T, hd) queries, (B, K, T, hd) keys and values, and a bias
    (1 or B, 1, T, T) or none, which is causal."""
    given = (q, k, v) if bias is None else (q, k, v, bias)
    dense = all(tensor.dtype == torch.bfloat16 and tensor.stride(-1) == 1 for tensor in given)
    if not dense or not native.plain(*given) or not k.numel():
        return False
    size, kv_heads = q.shape[-1], k.shape[1]  # addresses are made of the sizes
    if q.shape[0] * kv_heads < torch.get_num_threads():  # one thread a head: the others would wait
        return False
    same = k.shape == v.shape == (q.shape[0], kv_heads, *q.shape[2:]) and q.shape[1] % kv_heads == 0
    return same and size % 32 == 0 and size <= MAX_HEAD and tiles.library() is not None


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """(B, H, T, hd): softmax(q k^T / sqrt(hd) + bias) v, differentiable; laid out as (B, T, H, hd), so that
    putting the heads of a position side by side moves nothing."""
    return _Attention.apply(q, k, v, bias)  # type: ignore[no-any-return]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        bias = None if bias is None else bias.contiguous()
        reaches = None if bias is None else _reaches(bias)
        out = _positions_first(q)
        logs = torch.empty(q.shape[:3], dtype=torch.float32)
        _call("attention", (q, k, v, bias, reaches, out, logs), (q, k, v, out))
        ctx.save_for_backward(q, k, v, bias, reaches, out, logs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, bias, reaches, out, logs = ctx.saved_tensors
        slope = upstream[0] if upstream[0].stride(-1) == 1 else upstream[0].contiguous()
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), _positions_first(v)
        given = (q, k, v, bias, reaches, out, logs, slope, d_q, d_k, d_v)
        _call("attention_backward", given, (q, k, v, out, slope, d_q, d_k, d_v))
        return d_q, d_k, d_v, None


def _positions_first(x: Tensor) -> Tensor:
    """As much room as x (B, H, T, hd) takes, laid out as (B, T, H, hd)."""
    batch, heads, length, size = x.shape
    return x.new_empty(batch, length, heads, size).transpose(1, 2)


def _reaches(bias: Tensor) -> Tensor:
    """(masks, panels, 2): which panels of keys each panel of queries reaches, from the first to the last."""
    masks, length = bias.shape[0], bias.shape[-1]
    found = torch.empty(masks, -(-length // PANEL), 2, dtype=torch.int64)
    tiles.call("reaches", bias, found, masks, length)
    return found


def _call(name: str, tensors: tuple[Tensor | None, ...], strided: tuple[Tensor, ...]) -> None:
    """`tensors` begin with q, k, v and the bias, `strided` with q and k."""
    q, k, bias = strided[0], strided[1], tensors[3]
    strides = [tensor.stride(axis) for tensor in strided for axis in range(3)]
    batch, heads, length, size = q.shape
    apart = 0 if bias is None or bias.shape[0] == 1 else 1
    sizes = (batch, heads, k.shape[1], length, size, apart)
    tiles.call(name, *tensors, (ctypes.c_int64 * len(strides))(*strides), *sizes, size**-0.5)

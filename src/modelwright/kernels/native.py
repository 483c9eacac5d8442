"""The compiled kernels of `native.cpp`, called on tensors.

Where there is no compiler, and for tensors that are not on a CPU, `usable` says no and callers take
their plain torch path; results agree within rounding.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from modelwright.base.native import Unavailable, load

SOURCE = Path(__file__).with_name("native.cpp")

_FLAGS = {torch.float32: ("-fopenmp",), torch.bfloat16: ("-fopenmp", "-DBFLOAT16")}
"""By element type, for each of which the file is compiled once."""

_SIGNATURES = {
    "rms_norm": "ppppiifn",
    "rms_norm_backward": "ppppppiin",
    "rotate": "ppppiiiiiiiiiiin",
    "swiglu": "pppin",
    "swiglu_backward": "pppppin",
    "softmax": "ppiiiifn",
    "softmax_backward": "pppiiiifn",
    "cross_entropy": "pppippfiin",
    "draw": "ppppppppppppiiin",
    "nf4": "ppppin",
    "nf4_levels": "ppppin",
}
"""The last argument of each is the number of threads."""


def usable(*tensors: Tensor) -> bool:
    """Whether the compiled functions can work on these: all fp32 or all bf16, and `plain`."""
    first = tensors[0].dtype
    same = first in _FLAGS and all(tensor.dtype == first for tensor in tensors)
    return same and plain(*tensors) and library(first) is not None


def plain(*tensors: Tensor) -> bool:
    """Whether these are plain CPU tensors that are computed here and now. Within torch.compile inductor
    fuses the plain path itself; tracers, fake tensors and tensors of other kinds (DTensor) have no memory to
    read."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
        return False
    if any(type(tensor) not in _PLAIN or tensor.device.type != "cpu" for tensor in tensors):
        return False
    return _get_current_dispatch_mode() is None


_PLAIN = (Tensor, nn.Parameter)


def describe(device: str, dtype: torch.dtype) -> str:
    """For the log: whether a training on `device` in `dtype` uses the compiled kernels, and if not, why."""
    if device != "cpu" or dtype not in _FLAGS:
        return "plain torch"
    reason = _reasons.get(dtype, "") if library(dtype) is None else None
    return "compiled C++" if reason is None else f"plain torch, a fifth slower ({reason})"


_reasons: dict[torch.dtype, str] = {}


@cache
def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The functions for one element type; None where they cannot be built, and `describe` says why."""
    try:
        return load(SOURCE, _SIGNATURES, _FLAGS[dtype])
    except Unavailable as error:
        _reasons[dtype] = str(error)
        return None


def call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run one function of `native.cpp`. Tensors are passed by address: the caller has made sure of their
    types (`usable`), shapes and layout. The number of threads is added at the end."""
    found = library(dtype)
    assert found is not None
    passed = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    getattr(found, name)(*passed, torch.get_num_threads())

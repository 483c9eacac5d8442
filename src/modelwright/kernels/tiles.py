"""The functions of `tiles.cpp`, for CPUs that multiply bf16 (AVX512-BF16) or tiles of it (Intel AMX).

`library` is None where they cannot be built or the processor has neither: callers take their plain path.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelwright.base.native import find

SOURCE = Path(__file__).with_name("tiles.cpp")

_SIGNATURES = {
    "prepare": "n>n",
    "has_unit": ">n",
    "reaches": "ppiin",
    "attention": "ppppppppiiiiiifn",
    "attention_backward": "ppppppppppppiiiiiifn",
    "turned": "ppiin",
    "turned_wide": "ppiiin",
}
"""The last argument of each that computes is the number of threads."""


@cache
def library() -> ctypes.CDLL | None:
    """The functions, if this machine can have them. Asks the system for the matrix unit, once a process."""
    found = find(SOURCE, _SIGNATURES, ("-fopenmp",))
    return found if found and found.prepare(1) else None


def has_unit() -> bool:
    """Whether products go through a matrix unit here (AMX)."""
    found = library()
    return found is not None and bool(found.has_unit())


def serves(device: str, dtype: torch.dtype) -> bool:
    """Whether a training on `device` in `dtype` goes through these."""
    return device == "cpu" and dtype == torch.bfloat16 and library() is not None


def call(name: str, *arguments: Any) -> None:
    """Run one function. Tensors are passed by address: the caller has made sure of their types and layout.
    The number of threads is added at the end."""
    found = library()
    assert found is not None
    passed = [argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments]
    getattr(found, name)(*passed, torch.get_num_threads())


def turned(x: Tensor) -> Tensor:
    """The transpose of a dense bf16 matrix, dense."""
    out = x.new_empty(x.shape[1], x.shape[0])
    call("turned", x, out, *x.shape)
    return out


def turned_wide(x: Tensor, out: Tensor | None = None) -> Tensor:
    """The transpose of a dense bf16 matrix in fp32; added to `out` where that is given."""
    found = x.new_empty(x.shape[1], x.shape[0], dtype=torch.float32) if out is None else out
    call("turned_wide", x, found, *x.shape, int(out is not None))
    return found

"""Names of experts' weights. We hold a layer's experts in one stack, Qwen3Moe folders in single matrices.

    held      model.layers.0.mlp.experts.gate_proj.weight      (E, F, D)
    stored    model.layers.0.mlp.experts.7.gate_proj.weight    (F, D), one for each expert

`as_held` also reads a third spelling, that of transformers 5 in memory: `experts.gate_up_proj` (E, 2F, D),
gate before up, and `experts.down_proj`. A dense model's names are the same everywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from modelwright.base.errors import DamagedFile

_STACK = re.compile(r"(.+\.mlp\.experts)\.(gate_proj|up_proj|down_proj)\.(weight\w*)")
_SINGLE = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)\.(weight\w*)")
_FUSED = re.compile(r"(.+\.mlp\.experts)\.(gate_up_proj|down_proj)")


def as_stored(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stacks taken apart, for a folder that others read."""
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if found := _STACK.fullmatch(name):
            experts, projection, kind = found.groups()
            parts = enumerate(tensor.unbind())
            made |= {f"{experts}.{number}.{projection}.{kind}": part for number, part in parts}
        else:
            made[name] = tensor
    return made


def single(name: str) -> tuple[str, int] | None:
    """(name of the stack, number of the expert) of a single expert's weight."""
    found = _SINGLE.fullmatch(name)
    return (f"{found[1]}.{found[3]}.{found[4]}", int(found[2])) if found else None


def as_held(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """A folder's (name, tensor) pairs in our names, whichever spelling of the two it has. A stack stands
    where its first expert stood. Single experts are given up as they are stacked: pairs that come one by one
    need the memory of the model, and of one stack more."""
    made: dict[str, Tensor] = {}
    singles: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors:
        if found := _SINGLE.fullmatch(name):
            experts, number, projection, kind = found.groups()
            stack = f"{experts}.{projection}.{kind}"
            made.setdefault(stack, tensor)  # keeps the place
            singles.setdefault(stack, {})[int(number)] = tensor
        elif found := _FUSED.fullmatch(name):
            made |= _unfused(found[1], found[2], tensor)
        else:
            made[name] = tensor
    for stack in list(singles):
        made[stack] = _stacked(stack, singles.pop(stack))
    return made


def _unfused(experts: str, projection: str, tensor: Tensor) -> dict[str, Tensor]:
    if projection == "down_proj":
        return {f"{experts}.down_proj.weight": tensor}
    gate, up = tensor.chunk(2, dim=1)
    return {f"{experts}.gate_proj.weight": gate, f"{experts}.up_proj.weight": up}


def _stacked(name: str, parts: Mapping[int, Tensor]) -> Tensor:
    absent = sorted(set(range(max(parts) + 1)) - parts.keys())
    if absent:
        raise DamagedFile(f"of {name}, experts {absent[:5]} are missing: the folder is not whole")
    shapes = {tuple(tensor.shape) for tensor in parts.values()}
    if len(shapes) > 1:
        raise DamagedFile(f"the experts of {name} differ in shape: {sorted(shapes)[:3]}")
    return torch.stack([parts[number] for number in range(len(parts))])

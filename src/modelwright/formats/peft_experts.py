"""Changes of a mixture's experts in PEFT's folders. We hold those of a layer in one stack, PEFT in two ways:

    one by one    ...mlp.experts.7.gate_proj.lora_A.weight    (r, in), as before transformers 5
    in one        ...mlp.experts.base_layer.lora_A.weight     (E r, in), of `gate_up_proj`, gate before up
                  ...mlp.experts.lora_A.weight                (E r, in), of `down_proj`

The first is what is written: PEFT turns it into the second where it needs to, and serving engines read it. It
asks for gate and up together, of one rank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError
from modelwright.model.adapters import LowRank

_SINGLE = re.compile(r"(.+\.mlp\.experts)\.(\d+)\.(gate_proj|up_proj|down_proj)")
_STACK = re.compile(r"(.+\.mlp\.experts)\.(gate_proj|up_proj|down_proj)")
_IN_ONE = re.compile(r"(.+\.mlp\.experts)(?:\.base_layer)?")
_DENSE = re.compile(r".+\.mlp\.(gate_proj|up_proj|down_proj)")

Setting = Callable[[str], tuple[int, float]]
"""(rank, scale) of a name, as the configuration states them."""
Parts = dict[str, dict[str, Tensor]]
"""Layer -> "A" and "B"."""


def stacked(changes: Mapping[str, LowRank], path: Path) -> dict[str, LowRank]:
    """Changes with those of single experts brought into stacks; `path` is that of the file."""
    made: dict[str, LowRank] = {}
    singles: dict[str, dict[int, LowRank]] = {}
    for name, change in changes.items():
        if found := _SINGLE.fullmatch(name):
            singles.setdefault(f"{found[1]}.{found[3]}", {})[int(found[2])] = change
        else:
            made[name] = change
    for stack, each in singles.items():
        absent = sorted(set(range(max(each) + 1)) - each.keys())
        kinds = {(tuple(c.a.shape), tuple(c.b.shape), c.scale, c.magnitude is None) for c in each.values()}
        if absent or len(kinds) > 1 or any(c.magnitude is not None for c in each.values()):
            why = f"expert {absent[0]} has none" if absent else "they differ in rank or scale, or are of DoRA"
            raise UserError(
                f"{path}: the experts of {stack} are changed together, by LoRA of one rank, and {why}:"
                " merge it into its model with PEFT's merge_and_unload, and load that model"
            )
        ordered = [each[number] for number in range(len(each))]
        a, b = torch.stack([c.a for c in ordered]), torch.stack([c.b for c in ordered])
        made[stack] = LowRank(a, b, ordered[0].scale)
    return made


def take_in_one(parts: Parts, setting: Setting, path: Path) -> dict[str, LowRank]:
    """The stacks out of what is stored in one, which `parts` loses."""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name in [name for name in parts if _IN_ONE.fullmatch(name)]:
        experts = name.removesuffix(".base_layer")
        if parts[name].keys() != {"A", "B"}:
            raise DamagedFile(f"{path}: of {name} there is only lora_{'/'.join(parts[name])}")
        found.setdefault(experts, {})[name] = parts.pop(name)
    made: dict[str, LowRank] = {}
    for experts, each in found.items():
        for ab in each.values():
            kind = _kind(ab, [other for other in each.values() if other is not ab], experts, path)
            rank, scale = setting(f"{experts}.{kind}")
            made |= _apart(experts, kind, ab["A"], ab["B"], rank, scale, path)
    return made


def _kind(ab: Mapping[str, Tensor], others: list[dict[str, Tensor]], experts: str, path: Path) -> str:
    """Which of the two parameters: gate and up lead from the width to twice that of an expert, down back."""
    for other in others:
        if ab["A"].shape[1] == other["B"].shape[0] and ab["B"].shape[0] == 2 * other["A"].shape[1]:
            return "gate_up_proj"
        if ab["B"].shape[0] == other["A"].shape[1] and other["B"].shape[0] == 2 * ab["A"].shape[1]:
            return "down_proj"
    raise UserError(
        f"{path}: of {experts} gate_up_proj and down_proj are changed together or not at all, and these do"
        " not belong to one another: merge it into its model with PEFT's merge_and_unload, and load that"
    )


def _apart(
    experts: str, kind: str, a: Tensor, b: Tensor, rank: int, scale: float, path: Path
) -> dict[str, LowRank]:
    """A (E r, in) and B (out, r E) as stacks; gate and up have A in common."""
    if len(a) % rank or b.shape[1] != len(a):
        sizes = f"A {tuple(a.shape)} and B {tuple(b.shape)}"
        raise DamagedFile(f"{path}: {sizes} of {experts} have no rank {rank}")
    count = len(a) // rank
    downs, ups = a.view(count, rank, -1), b.view(len(b), rank, count).permute(2, 0, 1)
    if kind == "down_proj":
        return {f"{experts}.down_proj": LowRank(downs, ups.contiguous(), scale)}
    gate, up = (half.contiguous() for half in ups.chunk(2, dim=1))
    return {
        f"{experts}.gate_proj": LowRank(downs, gate, scale),
        f"{experts}.up_proj": LowRank(downs, up, scale),
    }


def singly(changes: Mapping[str, LowRank]) -> dict[str, LowRank]:
    """Changes with stacks taken apart. What PEFT could not put together again is refused."""
    stacks = {name: change for name, change in changes.items() if _STACK.fullmatch(name)}
    refuse_unreadable(changes)
    made: dict[str, LowRank] = {}
    for name, change in changes.items():
        if name not in stacks:
            made[name] = change
            continue
        experts, _, projection = name.rpartition(".")
        pairs = enumerate(zip(change.a.unbind(), change.b.unbind(), strict=True))
        made |= {f"{experts}.{n}.{projection}": LowRank(a, b, change.scale) for n, (a, b) in pairs}
    return made


def refuse_unreadable(changes: Mapping[str, LowRank]) -> None:
    """Refuse changes of experts that PEFT could not put together again: before a training, not after it."""
    stacks = {name: change for name, change in changes.items() if _STACK.fullmatch(name)}
    kinds = {(change.a.shape[-2], change.scale) for change in stacks.values()}
    ends = (".gate_proj", ".up_proj", ".down_proj")
    gates, ups, downs = ({n.removesuffix(end) for n in stacks if n.endswith(end)} for end in ends)
    dense = [name for name in changes if _DENSE.fullmatch(name)]
    reasons = {
        "experts of several ranks": len(kinds) > 1,
        "gate_proj without up_proj, or the other way": gates != ups,
        "gate_proj and up_proj in other layers than down_proj": gates != downs,
        f"experts and the dense {dense[0] if dense else ''}": bool(stacks and dense),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UserError(
                f"an adapter that changes {reason} cannot be written for PEFT, which has no form for it: name"
                ' "*.experts.*" in adapter.layers, and beside it layers of attention alone'
            )

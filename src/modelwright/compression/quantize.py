"""Integer weights: symmetric rounding to 8 bits with one scale per output channel, or to 4 with one for each
group of neighbouring inputs.

**8 bits.** For each row w of a weight matrix: scale = max|w| / 127, q = round(w / scale), so that every
weight is off by at most scale / 2, that is max|row| / 254. No weight is clipped and zero stays zero.

**4 bits.** Levels are -8..7, and there is one more below zero than above. So the weight of largest magnitude,
m, goes to the lower end: scale = -m / d, which may be negative. d = 8 is GGUF's Q4_0, d = 7 clips nothing;
which d is best depends on how far m stands out of its group, so a few are tried (`DIVISORS`), each with the
scale that fits its levels best by least squares, s = <w, q> / <q, q>, and the one of the least squared error
is taken. Scales are bf16, and were so when they were judged. On normally distributed weights in groups of 32
the error is 0.0810 of the weights, root mean square over root mean square, where Q4_0 leaves 0.0859 with the
same 4.5 bits and the best of all scales 0.0809. Since d = 7 is tried, the root mean square error of a group
is at most max|w| / 14, and what bf16 rounds off.

What is quantized: the projections of attention and feed-forward, those of experts included. What is kept:
norms, biases and routers, which are tiny, and the embedding with the output head. The head's rounding
errors go straight into the logits with no layer after them to average them out, and readers of the
compressed-tensors format expect `lm_head` untouched; a tied embedding is the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modelwright.base.errors import UserError
from modelwright.model.moe import StackedLinear
from modelwright.model.quantized import Scheme, check_finite, packed_tensors, quantize_rows, replace_linears
from modelwright.model.transformer import Transformer

EIGHT_BITS = Scheme(bits=8)
DIVISORS = (7.0, 7.25, 7.5, 7.75, 8.0, 8.25, 8.5, 8.75, 9.0)
"""What a group's largest weight is divided by for its scale in 4 bits, before least squares. Above 8 it is
clipped, for the good of the others."""
GROUPS_AT_ONCE = 1 << 16
"""How many groups are searched together: bounds the memory for what is tried."""


def quantize_groups(weight: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(..., out, in) floats -> int8 levels from -8 to 7 of that shape and (..., out, in / group) bf16 scales.

    A group of zeros has levels 0 and scale 1.
    """
    check_finite(weight)
    if weight.shape[-1] % group:
        raise UserError(
            f"a layer has {weight.shape[-1]} inputs, which {group}, the weights that share a scale, does not"
            " divide: choose another group, or 8 bits."
        )
    parts = weight.reshape(-1, group).split(GROUPS_AT_ONCE)
    found = [_best(part.float()) for part in parts]
    levels = torch.cat([rounded.levels.to(torch.int8) for rounded in found])
    scales = torch.cat([rounded.scale.bfloat16() for rounded in found])
    return levels.view(weight.shape), scales.view(*weight.shape[:-1], -1)


@dataclass(frozen=True, slots=True)
class _Rounded:
    """N groups rounded by some scale each."""

    levels: Tensor
    """(N, group), whole numbers in fp32."""
    scale: Tensor
    """(N, 1), numbers of bf16 in fp32."""
    error: Tensor
    """(N, 1) sum of squares."""

    @classmethod
    def by(cls, groups: Tensor, scale: Tensor) -> _Rounded:
        """(N, group) weights by (N, 1) scales, which are rounded to bf16 first."""
        scale = scale.bfloat16().float()
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        levels = (groups / scale).round_().clamp_(-8, 7)
        return cls(levels, scale, (groups - levels * scale).square_().sum(-1, keepdim=True))

    def or_better(self, other: _Rounded) -> _Rounded:
        """Of each group the one with the smaller error."""
        wins = other.error < self.error
        mine, others = (self.levels, self.scale, self.error), (other.levels, other.scale, other.error)
        return _Rounded(*(torch.where(wins, b, a) for a, b in zip(mine, others, strict=True)))


def _best(groups: Tensor) -> _Rounded:
    """(N, group) weights with the best scales found."""
    largest = groups.gather(1, groups.abs().argmax(-1, keepdim=True))
    best = _Rounded.by(groups, largest / -DIVISORS[0])
    for divisor in DIVISORS:
        tried = _Rounded.by(groups, largest / -divisor)
        products = (groups * tried.levels).sum(-1, keepdim=True)
        fitted = products / tried.levels.square().sum(-1, keepdim=True).clamp_min(1)
        best = best.or_better(tried).or_better(_Rounded.by(groups, fitted))
    return best


def quantized_linears(model: Transformer) -> tuple[str, ...]:
    """Dotted names of the layers that are quantized, in order."""
    return tuple(
        f"model.layers.{name}"
        for name, module in model.model.layers.named_modules()
        if isinstance(module, nn.Linear | StackedLinear)
    )


@torch.no_grad()
def quantize(
    model: Transformer, scheme: Scheme = EIGHT_BITS, kept_dtype: torch.dtype = torch.bfloat16
) -> Transformer:
    """A new model whose projections are rounded by `scheme`; `model` is left as it is.

    What is not quantized is stored as `kept_dtype`.
    """
    names = frozenset(quantized_linears(model))
    state = dict(_quantized_state(model.state_dict(), names, scheme, kept_dtype))
    with torch.device("meta"):
        made = Transformer(model.config, model.compute_dtype)
        replace_linears(made, names, scheme)
    made.load_state_dict(state, assign=True)
    return made.eval()


def _quantized_state(
    state: Mapping[str, Tensor], names: frozenset[str], scheme: Scheme, kept_dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        module, _, kind = name.rpartition(".")
        if module in names and kind == "weight":
            made = _tensors(tensor, scheme)
            yield from ((f"{module}.{kind}", part) for kind, part in made.items())
        else:
            yield name, tensor.detach().to(kept_dtype)


def _tensors(weight: Tensor, scheme: Scheme) -> dict[str, Tensor]:
    """What a quantized layer holds for a weight."""
    if scheme.bits == 4:
        return packed_tensors(*quantize_groups(weight, scheme.group))
    levels, scales = quantize_rows(weight)
    return {"weight": levels, "weight_scale": scales}

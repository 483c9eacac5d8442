"""A linear layer that is kept as it is, and a change of it that is trained: LoRA (arXiv 2106.09685), with
ranks stabilised (rsLoRA, arXiv 2312.03732), or with the lengths of rows apart from their directions (DoRA,
arXiv 2402.09353).

    LoRA   y = W x + s B A x + bias
    DoRA   y = g (W x + s B A x) + bias,  g = m / |W + s B A|, row by row

B begins as zeros and m as the lengths of the rows of W, so that an untrained change changes no bit. As in the
DoRA paper (section 4.3) the norm is taken for a constant where gradients are made. It costs no product of the
whole: |W + s B A|^2 = |W|^2 + 2 s (W A^T) . B + s^2 (B A A^T) . B, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.base.seeding import derive
from modelwright.kernels import low_rank


@runtime_checkable
class Adaptable(Protocol):
    """A linear layer of any format, inside a block."""

    in_features: int
    out_features: int
    bias: Tensor | None

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """(out, in) in a format; made whenever it is asked for, where that is not the layer's own."""
        ...


@runtime_checkable
class Divisible(Protocol):
    """One that can be made in parts."""

    def parts_in(self, dtype: torch.dtype, axis: int) -> Iterator[Tensor]:
        """Its weight, (out, in), in parts of rows (0) or of columns (1)."""
        ...


class LowRankLinear(nn.Module):
    """y = base(x), changed."""

    magnitude: Tensor | None

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        scale: float,
        *,
        dora: bool = False,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`seed` is that of dropout, with the step."""
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), scale
        self.dropout, self._seed = dropout, seed
        self._generator: torch.Generator | None = None
        layer = self.layer
        self.in_features, self.out_features = layer.in_features, layer.out_features
        device = next(iter(base.state_dict().values())).device
        self.a = nn.Parameter(torch.empty(rank, layer.in_features, device=device))
        self.b = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))
        lengths = self._lengths() if dora else None
        self.magnitude = None if lengths is None else nn.Parameter(lengths.clone())
        self.register_buffer("lengths", lengths, persistent=False)

    @property
    def layer(self) -> Adaptable:
        """What is changed."""
        return cast(Adaptable, self.base)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return together(x, [self])[0]

    def reference(self, x: Tensor) -> Tensor:
        """The same by plain operations beside the frozen product, with dropout while training."""
        y = low_rank.frozen(x, partial(self.layer.weight_in, x.dtype), self.bias_in(x.dtype))
        change = F.linear(F.linear(self._dropped(x), self.a.to(x.dtype)), self.b.to(x.dtype)) * self.scale
        return self.finished(y + change)

    def draw_for(self, step: int) -> None:
        """From now on dropout draws what it draws in step `step`, whether a run was resumed or not."""
        if self.dropout:
            self._generator = torch.Generator(self.a.device).manual_seed(derive(self._seed, step))

    def _dropped(self, x: Tensor) -> Tensor:
        """What A is given."""
        if not (self.dropout and self.training):
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.dropout, generator=self._generator)
        return x * kept / (1 - self.dropout)

    def finished(self, y: Tensor) -> Tensor:
        """What DoRA does last: its gain, in which the bias has no part. A gain of 1 changes no bit."""
        if self.magnitude is None:
            return y
        gain, bias = self.magnitude / self.changed_lengths(y.dtype), self.bias_in(y.dtype)
        return y * gain.to(y.dtype) if bias is None else y + (gain - 1).to(y.dtype) * (y - bias)

    def bias_in(self, dtype: torch.dtype) -> Tensor | None:
        """(out,) the layer's own, in a format."""
        return None if self.layer.bias is None else self.layer.bias.to(dtype)

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """(out,) of the rows of W."""
        return torch.linalg.vector_norm(self.layer.weight_in(torch.float32), dim=1)

    @torch.no_grad()
    def changed_lengths(self, dtype: torch.dtype) -> Tensor:
        """(out,) of the rows of W + s B A, with products in a format."""
        assert isinstance(self.lengths, Tensor)
        crossed = (self.layer.weight_in(dtype) @ self.a.T.to(dtype)) * self.b
        squared = ((self.b @ (self.a @ self.a.T)) * self.b).sum(1) * self.scale**2
        found = self.lengths.square() + 2 * self.scale * crossed.sum(1) + squared
        return torch.where(
            (self.b == 0).all(1), self.lengths, found.clamp_min(torch.finfo(torch.float32).tiny).sqrt()
        )

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """A uniform within 1 / sqrt(in), as PEFT begins; B stays zero."""
        bound = 1 / math.sqrt(self.in_features)
        drawn = torch.empty(self.a.shape).uniform_(-bound, bound, generator=generator)
        self.a.copy_(drawn)


def together(x: Tensor, layers: Sequence[LowRankLinear]) -> tuple[Tensor, ...]:
    """x (..., in) through layers that share it."""
    random = any(layer.dropout and layer.training for layer in layers)
    if random or torch.compiler.is_compiling():  # a compiler sees through plain operations only
        return tuple(layer.reference(x) for layer in layers)
    frozen = [(_weight_of(layer.layer, x), layer.bias_in(x.dtype)) for layer in layers]
    changed = low_rank.adapted(x, frozen, [(layer.a, layer.b, layer.scale) for layer in layers])
    return tuple(layer.finished(y) for layer, y in zip(layers, changed, strict=True))


def _weight_of(layer: Adaptable, x: Tensor) -> low_rank.Frozen:
    """In parts where it can be, on a CPU: on a GPU many small products take longer than one."""
    if isinstance(layer, Divisible) and x.device.type == "cpu":
        return low_rank.InParts(partial(layer.parts_in, x.dtype), layer.out_features)
    return partial(layer.weight_in, x.dtype)

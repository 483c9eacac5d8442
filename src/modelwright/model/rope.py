"""Rotary positions (RoPE, arXiv 2104.09864), and the ways to stretch them over more positions than a model
was first trained on. Settings have Hugging Face's names.

Each way changes the frequencies at which pairs rotate, once and for all lengths. Ways that depend on the
length at hand (dynamic NTK, longrope) are not here: with them a cached key would be another one than the same
key computed anew.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor, nn

from modelwright.base.config import Config

ROTATION = 2 * math.pi


class _Stretch(Config):
    """What the ways have in common."""

    model_config = ConfigDict(allow_inf_nan=False)

    factor: float = Field(ge=1)

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied with."""
        return 1.0


class LinearRope(_Stretch):
    """All positions divided by a factor (arXiv 2306.15595)."""

    rope_type: Literal["linear"] = "linear"

    def stretch(self, frequencies: Tensor, theta: float) -> Tensor:
        """(hd / 2) frequencies -> those that are used."""
        return frequencies / self.factor


class Llama3Rope(_Stretch):
    """Slow pairs are slowed down by a factor, quick ones are not, those between by less (Llama 3.1, arXiv
    2407.21783)."""

    rope_type: Literal["llama3"] = "llama3"
    low_freq_factor: float = Field(gt=0)
    """Pairs that turn fewer times than this in the original context are slow."""
    high_freq_factor: float = Field(gt=0)
    """Pairs that turn more often are quick."""
    original_max_position_embeddings: int = Field(gt=0)

    @model_validator(mode="after")
    def _slow_is_below_quick(self) -> Llama3Rope:
        if self.low_freq_factor >= self.high_freq_factor:
            raise ValueError(
                f"low_freq_factor ({self.low_freq_factor}) must be below high_freq_factor"
                f" ({self.high_freq_factor})"
            )
        return self

    def stretch(self, frequencies: Tensor, theta: float) -> Tensor:
        """(hd / 2) frequencies -> those that are used."""
        turns = self.original_max_position_embeddings * frequencies / ROTATION
        quick = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        quick = quick.clamp(0, 1)
        return (1 - quick) * frequencies / self.factor + quick * frequencies


class YarnRope(_Stretch):
    """As Llama 3's, with a ramp over pairs instead of turns, and larger scores (YaRN, arXiv 2309.00071)."""

    rope_type: Literal["yarn"] = "yarn"
    original_max_position_embeddings: int = Field(gt=0)
    beta_fast: float = Field(default=32, gt=0)
    """Pairs that turn this often in the original context, or oftener, stay as they are."""
    beta_slow: float = Field(default=1, gt=0)
    """Pairs that turn at most this often are slowed down by the whole factor."""
    attention_factor: float | None = Field(default=None, gt=0)
    """What queries and keys are multiplied with. Default: 0.1 ln(factor) + 1."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    """With both, the default becomes (0.1 mscale ln(factor) + 1) / (0.1 mscale_all_dim ln(factor) + 1)."""
    truncate: bool = True
    """Whether the ramp starts and ends at whole pairs."""

    @property
    def magnitude(self) -> float:
        """What cosines and sines are multiplied with."""
        if self.attention_factor is not None:
            return self.attention_factor
        grown = 0.1 * math.log(self.factor)
        if self.mscale and self.mscale_all_dim:
            return (self.mscale * grown + 1) / (self.mscale_all_dim * grown + 1)
        return grown + 1

    def stretch(self, frequencies: Tensor, theta: float) -> Tensor:
        """(hd / 2) frequencies -> those that are used."""
        pairs = len(frequencies)
        first, last = (self._pair(turns, pairs, theta) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, 2 * pairs - 1)
        ramp = torch.arange(pairs, device=frequencies.device, dtype=torch.float32) - first
        slow = (ramp / ((last - first) or 0.001)).clamp(0, 1)
        return slow * frequencies / self.factor + (1 - slow) * frequencies

    def _pair(self, turns: float, pairs: int, theta: float) -> float:
        """The pair, from 0, that turns this often in the original context."""
        length = self.original_max_position_embeddings / (turns * ROTATION)
        return pairs * math.log(length) / math.log(theta)


RopeScaling = Annotated[LinearRope | Llama3Rope | YarnRope, Field(discriminator="rope_type")]


class Rope(nn.Module):
    """Rotation tables, half-split order as in Hugging Face checkpoints. Nothing to learn or save."""

    def __init__(self, theta: float, head_dim: int, scaling: RopeScaling | None = None) -> None:
        super().__init__()
        self.theta, self.head_dim, self.scaling = theta, head_dim, scaling

    def frequencies(self, device: torch.device) -> Tensor:
        """(hd / 2) radians a position, in fp32."""
        exponents = torch.arange(0, self.head_dim, 2, device=device, dtype=torch.float32)
        unscaled = self.theta ** (-exponents / self.head_dim)
        return unscaled if self.scaling is None else self.scaling.stretch(unscaled, self.theta)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosine and sine (..., T, hd) for positions (..., T). Angles are computed in fp32."""
        angles = positions.float().unsqueeze(-1) * self.frequencies(positions.device)
        angles = torch.cat((angles, angles), dim=-1)
        cos, sin = angles.cos(), angles.sin()
        if self.scaling is not None and self.scaling.magnitude != 1:
            cos, sin = cos * self.scaling.magnitude, sin * self.scaling.magnitude
        return cos.to(dtype), sin.to(dtype)

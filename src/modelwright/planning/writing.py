"""What it takes to write answers: tokens, arithmetic, time, and the cache of keys and values.

Every token that is read or written meets each weight once. A step of decoding writes one token of each open
answer, and takes the longer of two times, and what is done for each answer besides:

    step = max(bytes of the weights / bandwidth, answers x FLOPs / rate) + answers x TAKEN

Where layers run one by one in torch (beside an adapter, where nothing is compiled), what starts them comes on
top. Held against our engine (4M and 113M parameters, 1 and 32 answers, both formats, two cores of an EPYC,
2026-11-23), the formula gives 0.8 to 2.0 times the seconds of a step, and once 3.5: 32 answers in fp32, where
compiled steps are faster than the matrix product that the rate was measured with. How long answers will be
nobody knows beforehand: all figures are for answers of the greatest length.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.planning.machines import Machine
from modelwright.planning.serving import cache_bytes
from modelwright.planning.shape import Shape

TAKEN = {True: 3e-5, False: 3e-4}
"""Whether steps are compiled -> seconds for each answer and step: drawing its token, and in torch gathering
its cache."""
LAYER_START = 1e-3
"""Seconds that a layer takes in torch, however few the tokens are (measured on a CPU)."""
CACHE_BYTES = 2 << 30
"""The most that the engine's cache takes where nobody says (inference/cache.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """Answers that one model writes."""

    answers: float
    prompt: float
    """Tokens of a prompt, on average."""
    answer: float
    """Tokens of an answer, at most."""
    slots: int
    """Answers that are open at once."""
    compiled: bool = True
    """Whether the engine's compiled steps write; else the layers run one by one."""

    @property
    def read(self) -> int:
        """Tokens of all prompts."""
        return round(self.answers * self.prompt)

    @property
    def written(self) -> int:
        """Tokens of all answers, at most."""
        return round(self.answers * self.answer)

    def flops(self, shape: Shape) -> float:
        """2 FLOPs for each weight that a token meets, as a run counts them."""
        return 2.0 * shape.matmul_weights * (self.read + self.written)

    def seconds(self, shape: Shape, machine: Machine, dtype: str, weights: float) -> float:
        """At most about. `weights`: their bytes as they are held."""
        open_, rate = min(float(self.slots), max(1.0, self.answers)), machine.rate(dtype)
        token = 2.0 * shape.matmul_weights / rate
        step = max(weights / machine.bandwidth, open_ * token) + open_ * TAKEN[self.compiled]
        if not self.compiled:
            step += LAYER_START * shape.layers
        return self.read * token + self.written / open_ * step

    def cache_bytes(self, shape: Shape, product: int) -> float:
        """Keys and values of all open answers; `product`: bytes of a number in products."""
        context = round(self.prompt + self.answer)
        return min(CACHE_BYTES, cache_bytes(shape, context, self.slots, product))

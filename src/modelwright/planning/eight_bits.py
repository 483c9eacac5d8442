"""What training in 8 bits (kernels/fp8.py) changes of the time of a step, on paper: not measured.

Products of the linear layers inside the blocks are taken at the vendor's rate for 8 bits, and to reach the
same share of it as of bf16's. What is added moves through memory: each number is read for its tensor's scale,
read again to be rounded, and turned around for one of the three products. Experts stay in bf16, and so does
what has a side that is no multiple of 16.
"""

from __future__ import annotations

from dataclasses import replace

from modelwright.kernels.fp8 import ALIGNMENT
from modelwright.planning.machines import Machine
from modelwright.planning.memory import Training, matrix_groups
from modelwright.planning.shape import Shape

MOVED = 7
"""Bytes for each number that a layer reads or whose gradient it gets: 2 for the scale, 3 for the rounding, 2
for the turning."""
MOVED_OF_WEIGHT = 10
"""Bytes for each weight in a micro-batch: 2 and 3 forward, and backward 3 for rounding it again and 2 for
turning."""


def eight_bit_rate(training: Training, machine: Machine) -> float:
    """FLOP/s of products in 8 bits; 0 where there are none, or where the table has no rate of them."""
    possible = training.fp8 and not training.frozen and training.box.tensor == 1
    return machine.rates.get("fp8", 0.0) if possible else 0.0


def seconds_saved(
    shape: Shape, training: Training, machine: Machine, passes: float, efficiency: float
) -> float:
    """Of an update on a device that does so many passes over its tokens at this share of the rate; below 0
    where moving takes longer than the products gain."""
    rate = eight_bit_rate(training, machine)
    if not rate:
        return 0.0
    weights, sides = 0, 0
    for count, rows, columns in matrix_groups(replace(shape, expert_width=0)):
        if rows and columns and not (rows % ALIGNMENT or columns % ALIGNMENT):
            weights, sides = weights + count * rows * columns, sides + count * (rows + columns)
    tokens, micro = training.device_tokens, training.dealt[1]
    gained = passes * 2 * weights * tokens * (1 / machine.rate("bfloat16") - 1 / rate) / efficiency
    return gained - (MOVED * sides * tokens + MOVED_OF_WEIGHT * weights * micro) / machine.bandwidth


def eight_bit_note(training: Training, machine: Machine) -> str:
    """What a forecast in 8 bits rests on; "" where it is none."""
    if not training.fp8:
        return ""
    if rate := eight_bit_rate(training, machine):
        return (
            f"compute.fp8: products inside the blocks at the sheet's {rate / 1e12:,.0f} TFLOP/s, less what is"
            " moved to find scales; nobody has measured it, and memory is counted as in bf16"
        )
    return f"compute.fp8: no rate in 8 bits is known of {machine.name}, so that bf16's is counted"

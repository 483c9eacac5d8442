"""Many devices on paper: what each holds, what it sends, and how long that takes.

N devices stand in a box of R replicas x S shards x T tensor-parallel ways (design of HSDP, arXiv 2304.11277,
and of Megatron, arXiv 1909.08053). With P parameters, L layers, D width, n tokens of a micro-batch on each
reader:

    kept        16 P / (S T) bytes: fp32 weights, gradients and two moments
    gathered    2 P_layer / T for each of `PREFETCHED` layers, in bf16, and embedding and head
    sent, S     all-gather in forward and in backward, 2 x 2 P (S-1)/(S T); reduce-scatter of fp32
                gradients, 4 P (S-1)/(S T)
    sent, R     all-reduce of what a shard holds, 2 x 4 P/(S T) (R-1)/R
    sent, T     4 all-reduces a layer (2 forward, 2 backward) of n D bf16 numbers, each 2 (T-1)/T of that

Bytes are those that leave one device in a step. Devices of one node talk over the machine's link, nodes over
the network; parts that overlap with arithmetic are not seen, so a step takes the longer of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelwright.base.errors import ConfigError
from modelwright.planning.machines import Machine
from modelwright.planning.shape import Shape

STATE_BYTES = 16.0
PREFETCHED = 3
"""Layers whose whole weights are on a device at once: the one at work, its successor, one that is let go."""
NETWORK = 50e9
"""Bytes per second and device between nodes: 400 Gbit/s, as in torchtitan's published runs."""
NODE = 8
"""Devices of a node."""
LINK_SHARE = 0.75
"""Of a link's rate that collectives reach. An assumption; NCCL's own tests show 70 to 85 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """How many devices stand along each side."""

    replicas: int = 1
    shards: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        if min(self.replicas, self.shards, self.tensor) < 1:
            raise ConfigError(f"{self} has an empty side: expected at least 1 of each")

    @property
    def devices(self) -> int:
        """In all."""
        return self.replicas * self.shards * self.tensor

    @property
    def readers(self) -> int:
        """Groups of devices that read rows of their own."""
        return self.replicas * self.shards

    @property
    def held_by(self) -> int:
        """Devices that hold one copy together."""
        return self.shards * self.tensor

    def describe(self) -> str:
        """ "8 replicas x 8 shards"; sides of one are left out."""
        sides = (("replicas", self.replicas), ("shards", self.shards), ("tensor-parallel ways", self.tensor))
        return " x ".join(f"{size} {name}" for name, size in sides if size > 1) or "1 device"


ALONE = Box()
"""One device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharded:
    """One device of many, in one step."""

    box: Box
    state: float
    """Bytes kept from step to step, gradients included."""
    gathered: float
    activations: float
    logits: float
    sent_shards: float
    """Bytes that leave the device for gathering and scattering."""
    sent_replicas: float
    sent_tensor: float
    arithmetic_seconds: float
    communication_seconds: float

    @property
    def memory(self) -> float:
        """Bytes at the peak."""
        return self.state + self.gathered + self.activations + self.logits

    @property
    def seconds(self) -> float:
        """Of a step, with communication of shards and replicas behind arithmetic."""
        return max(self.arithmetic_seconds, self.communication_seconds)


def choose_box(devices: int, how: str, tensor: int = 1, size: int | None = None, node: int = NODE) -> Box:
    """ "fsdp": all hold one copy together; "hsdp" and "auto": those of a node do; "none": each has its own;
    `size`: groups of so many do. Where training/parallel.py would place processes, one on each device."""
    if devices < 1 or tensor < 1 or devices % tensor:
        raise ConfigError(
            f"{devices} devices in groups of {tensor} tensor-parallel ways: expected a multiple"
        )
    readers = devices // tensor
    near = max(1, min(node, devices) // tensor)
    shards = size or {"fsdp": readers, "hsdp": near, "auto": near, "none": 1}.get(how)
    if shards is None:
        raise ConfigError(f"--shard got '{how}', expected fsdp, hsdp or none")
    if readers % shards:
        raise ConfigError(
            f"{readers} readers do not fill groups of {shards} shards: expected a multiple of {shards}"
        )
    return Box(replicas=readers // shards, shards=shards, tensor=tensor)


def kept_numbers(shape: Shape, checkpointing: str) -> float:
    """bf16 numbers a token and layer of a stock fused block: all; with "selective" its input, the mix of
    FlashAttention and every second product (torchtitan's policy); with "full" its input alone."""
    d, q, kv, f = shape.hidden, shape.q_size, shape.kv_size, _width(shape)
    if checkpointing == "full":
        return d
    if checkpointing == "selective":
        return d + q + kv + f + d + q  # q, v, gate and down of q, k, v, o, gate, up, down; and the mix
    return 4 * d + 2 * (q + kv) + kv + 2 * q + 4 * f


def _width(shape: Shape) -> int:
    return shape.active_experts * shape.expert_width + shape.shared_width or shape.feed_forward


def sharded(
    shape: Shape,
    box: Box,
    machine: Machine,
    *,
    rows: int = 1,
    context: int = 8192,
    checkpointing: str = "selective",
    efficiency: float = 0.40,
    chunked_loss: bool = False,
    network: float = NETWORK,
) -> Sharded:
    """One device of `box`; `rows` of `context` tokens on each reader. `chunked_loss`: logits are never
    whole."""
    tokens, ways, held = rows * context, box.tensor, box.shards * box.tensor
    layer = (shape.parameters - 2 * shape.embedding) / shape.layers
    wide = tokens * shape.vocab / ways
    p = float(shape.parameters)
    to_shards = (2 * 2 + 4) * p / ways * (box.shards - 1) / box.shards
    to_replicas = 2 * 4 * p / held * (box.replicas - 1) / box.replicas
    to_ways = 4 * shape.layers * 2 * tokens * shape.hidden * 2 * (ways - 1) / ways
    passes = {"none": 3.0, "selective": 3.2, "full": 4.0}[checkpointing]
    flops = passes * shape.forward_flops(context) * tokens / ways
    rows_kept = 2 * tokens * kept_numbers(shape, checkpointing) * shape.layers
    # Sequence parallelism: what lies between the products is dealt out over the ways too. Its inputs are
    # gathered whole on each way, twice a layer, and so are their gradients.
    one_whole = 2 * tokens * kept_numbers(shape, "none") if checkpointing != "none" else 0.0
    whole_inputs = 4 * 2 * tokens * shape.hidden if ways > 1 else 0.0
    return Sharded(
        box=box,
        state=STATE_BYTES * p / held,
        gathered=(PREFETCHED * 2 * layer + 2 * 2 * shape.embedding) / ways if box.shards > 1 else 2 * layer,
        activations=(rows_kept + one_whole) / ways + whole_inputs,
        logits=0.0 if chunked_loss else wide * 12,
        sent_shards=to_shards,
        sent_replicas=to_replicas,
        sent_tensor=to_ways,
        arithmetic_seconds=flops / (machine.rate("bfloat16") * efficiency),
        communication_seconds=sum(wire_seconds(box, machine, to_shards, to_replicas, to_ways, network)),
    )


def wire_seconds(
    box: Box,
    machine: Machine,
    to_shards: float,
    to_replicas: float,
    to_ways: float,
    network: float = NETWORK,
) -> tuple[float, float, float]:
    """Seconds for bytes along each side, each on the slowest wire that it crosses; a link's rate is stated
    for both directions."""
    near = LINK_SHARE * machine.link / 2 if machine.link else network
    far = LINK_SHARE * network
    ways, shards, all_of_them = (
        near if count <= NODE else far for count in (box.tensor, box.held_by, box.devices)
    )
    return to_shards / shards, to_replicas / all_of_them, to_ways / ways

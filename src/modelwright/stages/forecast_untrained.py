"""What stations need that train nothing and write no rows: rough throughput, and memory by what they hold.

`evaluate` is counted part by part (quickstart's, in a process of its own: 655 MiB said, 704 held). Of the
others only the order of magnitude is known: copies of the weights beside the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelwright.base.errors import UserError
from modelwright.environments.task import Task, max_tokens_of, select
from modelwright.inference.blocks import SIZE, blocks_for
from modelwright.planning.activations import FP32
from modelwright.planning.forecast import StationForecast, other_station
from modelwright.planning.machines import Machine, Prices
from modelwright.planning.memory import CPU_BASE, CUDA_BASE
from modelwright.planning.shape import Shape
from modelwright.planning.writing import Writing

BYTES_PER_SECOND = {"prepare": 5.5e5, "tokenize": 2.5e6}
"""Text through a station on two cores (prepare: one timing of atlas, 1.5 MB; tokenize: an estimate)."""
PARAMETERS_PER_SECOND = {"average": 5e6, "compress": 4e6, "export": 2e6}
"""Weights through a station, its measurements on held-out text included: estimates for two cores."""
COPIES = {"import": 2.0, "compress": 8.0, "export": 8.0}
"""Bytes a parameter that a station holds at its highest; of others three copies in fp32."""
START = 2.0
"""Seconds that any station takes to open its inputs and to hash what it made."""
MODELS = ("pretrain", "import", "finetune", "align")
"""Stations whose models `evaluate` asks."""
PROMPT_TOKENS = 64
"""Of a question in the chat template: more than those of the embedded corpus have."""
READ_ROWS, READ_TOKENS = 8, 256
"""Rows of held-out text that are read at once, and the tokens of each (stages/evaluate.py)."""
READ_POSITIONS, READ_LOGITS = 1024, 1 << 24
"""Positions whose logits exist at one time, and how many these are at most: those of
evaluation/likelihood.py, held equal by a test, since importing it would pull all that measures behind it."""


def untrained(
    verb: str, configs: Mapping[str, Any], shape: Shape | None, machine: Machine, prices: Prices
) -> StationForecast:
    """The forecast of a station that neither trains nor writes rows. `configs`: of all the recipe's stations,
    in order."""
    gpu = machine.kind == "gpu"
    if verb == "evaluate" and shape is not None:
        return _evaluation(configs, shape, machine, prices)
    parameters, text = float(shape.parameters if shape else 0), text_bytes(configs)
    if verb in BYTES_PER_SECOND:
        seconds = text / BYTES_PER_SECOND[verb]
    else:
        seconds = parameters / PARAMETERS_PER_SECOND[verb] if verb in PARAMETERS_PER_SECOND else 0.0
    about = "rough throughput on two CPU cores"
    copies = COPIES.get(verb, 12.0) * parameters
    memory = CPU_BASE + (2 * text if verb in BYTES_PER_SECOND else copies)
    made = other_station(verb, START + seconds, memory, about, machine, prices)
    if gpu:
        return made.model_copy(update={"fits": None, "about": f"{about}, in the host's memory"})
    return made


def _evaluation(
    configs: Mapping[str, Any], shape: Shape, machine: Machine, prices: Prices
) -> StationForecast:
    """Every model made so far answers every suite, in fp32, one model after the other."""
    config, models = configs["evaluate"], max(1, sum(verb in configs for verb in MODELS))
    longest = [max_tokens_of(task, config.max_tokens) for task in _tasks(config).values()]
    longest += [each.max_tokens or config.max_tokens for each in config.questions]
    writing = Writing(
        answers=models * len(longest) * config.limit,
        prompt=PROMPT_TOKENS,
        answer=sum(longest) / len(longest),
        slots=min(config.slots, config.limit),
    )
    weights = FP32 * float(shape.parameters)
    length = SIZE * (blocks_for(PROMPT_TOKENS + max(longest)) + 1)  # as the engine makes room for a slot
    room = replace(writing, answer=length - PROMPT_TOKENS)
    parts = {
        "weights": weights + FP32 * shape.embedding,  # the embedding is there twice while it is packed
        "cache": room.cache_bytes(shape, FP32),
        "activations": _reading_bytes(shape),
        "process": float(CUDA_BASE if machine.kind == "gpu" else CPU_BASE),
    }
    read = models * config.validation_tokens * 2.0 * shape.matmul_weights / machine.rate("float32")
    seconds = START + read + writing.seconds(shape, machine, "float32", weights)
    made = other_station(
        "evaluate", seconds, sum(parts.values()), "formula; answers of the greatest length", machine, prices
    )
    return made.model_copy(update={"memory": parts})


def _tasks(config: Any) -> Mapping[str, Task]:
    """The suites that are asked; where a name is wrong, as a note of the forecast says, all there are."""
    try:
        return select(config.suites) if config.suites or not config.questions else {}
    except UserError:
        return select(())


def _reading_bytes(shape: Shape) -> float:
    """Held-out text in fp32 (evaluation/likelihood.py): a layer's activations, logits and their softmax."""
    positions = READ_ROWS * READ_TOKENS
    wide = max(shape.feed_forward, shape.active_experts * shape.expert_width)
    logits = min(READ_POSITIONS * shape.vocab, READ_LOGITS)
    return FP32 * (positions * (4 * shape.hidden + 2 * shape.q_size + 3 * wide) + 2 * logits)


def text_bytes(configs: Mapping[str, Any]) -> float:
    """Bytes of text that the sources hold."""
    config = configs.get("prepare")
    if config is None:
        return 0.0
    return float(sum(_source_bytes(source, config) for source in config.sources))


def _source_bytes(source: Any, config: Any) -> int:
    if source.is_atlas:
        return config.atlas_size_bytes
    return sum(path.stat().st_size for path in _files(str(source.path)))


def _files(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path
    elif "*" in pattern:
        yield from (file for file in Path().glob(pattern) if file.is_file())

"""What stations need that train nothing and write no rows, counted from what they do.

Held-out text that is read in fp32 costs its arithmetic (`reading_seconds`); text that is prepared or
tokenized, its bytes; weights that are copied, written and read back, theirs. The rates behind that are of two
cores of an AMD EPYC, 2026-11-24, where `modelwright run quickstart` (4M parameters, 5 MB of text) and one of
27M were measured; elsewhere they tell the order of magnitude. Memory is what a station holds at its highest,
the process included.
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
from modelwright.planning.duration import interpolate
from modelwright.planning.forecast import StationForecast, other_station
from modelwright.planning.machines import Machine, Prices
from modelwright.planning.memory import CPU_GROWTH, CUDA_BASE, MIB
from modelwright.planning.shape import Shape
from modelwright.planning.writing import Writing
from modelwright.stages.forecast_rows import mean_padded, pair_lengths, sampled_conversations, tokens_of

ATLAS_BYTES, TEXT_BYTES = 5e6, 1.3e7
"""Bytes a second through prepare: of the embedded corpus, which is made up by one process, and of texts in
files, by two (57 MB of novels in 4.6 s)."""
LEARN_BYTES, ENCODE_BYTES = 4e7, 1.2e8
"""Bytes a second of the sample that the vocabulary is learned from, and of all text through tokenize."""
UNPACKED = {".parquet": 3.4, ".gz": 3.0, ".zst": 3.4}
"""Bytes of text for one of a file that is compressed."""
SMALL_TEXT = 1 << 24
"""Bytes of the embedded corpus up to which prepare works in its own process (data/execution/run.py)."""
TEXT_BASE, PARENT_BASE, HELD_TEXT = 200 * MIB, 120 * MIB, 6.0
"""A process with pyarrow and no torch; one that lets others work; bytes that making a byte of the embedded
corpus holds."""
TOKENIZE_BASE, SAMPLE_HELD = 165 * MIB, 4.0
"""A process with a tokenizer and no torch, and what learning holds of a byte of its sample."""
MODEL_BASE, READERS_BASE = 350 * MIB, 445 * MIB
"""A process with torch, a tokenizer and shards; the same with transformers, which reads exports back."""
READING = ((256, 0.63), (512, 0.75))
"""Share of the rate of matrix products at which held-out text is read, by width: rows are few, and padded to
the longest."""
COMPARED_SECONDS, COMPARED_BYTES = 1e-8, 48.0
"""Of a pair of logits: the divergence of two models in fp64."""
WEIGHTS_PER_SECOND = 1.2e7
"""Through an export: three copies are written, hashed, and read back by another program."""
READERS_START = 3.0
"""Seconds in which that program is loaded, and texts and templates are compared."""
START, MODEL_START = 0.1, 0.5
"""Seconds of opening inputs and hashing what was made, without a model and with one."""
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
    if verb == "evaluate" and shape is not None:
        return _evaluation(configs, shape, machine, prices)
    if verb in _TEXT:
        seconds, memory = _TEXT[verb](configs)
    elif verb in _MODEL and shape is not None:
        seconds, memory = _MODEL[verb](configs, shape, machine)
    else:
        parameters = float(shape.parameters if shape else 0)
        seconds, memory = MODEL_START + parameters / WEIGHTS_PER_SECOND, MODEL_BASE + 2 * parameters
    about = "counted; rates of two CPU cores"
    made = other_station(verb, seconds, memory, about, machine, prices)
    if machine.kind == "gpu":
        return made.model_copy(update={"fits": None, "about": f"{about}, in the host's memory"})
    return made


def _prepare(configs: Mapping[str, Any]) -> tuple[float, float]:
    """Small amounts of the embedded corpus are made by the station's process; other text by workers, whose
    memory is not counted."""
    made, read = text_bytes(configs)
    seconds = made / ATLAS_BYTES + read / TEXT_BYTES
    here = not read and made < SMALL_TEXT
    return START + seconds, TEXT_BASE + HELD_TEXT * made if here else PARENT_BASE


def _tokenize(configs: Mapping[str, Any]) -> tuple[float, float]:
    """A sample is held while the vocabulary is learned from it; texts pass in batches."""
    config, text = configs["tokenize"], sum(text_bytes(configs))
    sample = 0.0 if config.start_from else min(text, float(config.sample_bytes))
    seconds = sample / LEARN_BYTES + text / ENCODE_BYTES
    return START + seconds, TOKENIZE_BASE + SAMPLE_HELD * sample


def reading_seconds(shape: Shape, tokens: float, machine: Machine) -> float:
    """Of a forward pass over held-out text in fp32."""
    rate = machine.rate("float32") * interpolate(READING, shape.hidden)
    return tokens * shape.forward_flops(READ_TOKENS) / rate


def _average(configs: Mapping[str, Any], shape: Shape, machine: Machine) -> tuple[float, float]:
    """Each candidate is judged as its training was and reads held-out text; the soup is judged once more for
    each that is stirred in. The highest: two soups being weighed in fp64 beside the model, a candidate and
    the averages that training kept."""
    config = configs["average"]
    source = next((verb for verb in ("align", "finetune", "pretrain") if verb in configs), "")
    averages = configs[source].averages if source else None
    kept = len((*averages.half_lives, *averages.tails, *averages.powers)) if averages else 0
    candidates = 2 + kept + (len(config.widths) if averages and averages.snapshots else 0)
    judged = candidates + (candidates + 1 if config.soup else 0)
    judge, text = _held_out_tokens(source, configs), config.validation_tokens
    texts = candidates + (1 if config.soup else 0)
    tokens = float(judged * text) if judge is None else judged * judge + texts * text
    parameters = float(shape.parameters)
    held = FP32 * parameters * (7 + kept)
    growth = CPU_GROWTH[0] * (held - FP32 * parameters)
    return MODEL_START + reading_seconds(shape, tokens, machine), MODEL_BASE + held + growth


def _held_out_tokens(verb: str, configs: Mapping[str, Any]) -> float | None:
    """What a training's own measure reads; None where it is held-out text."""
    config: Any = configs.get(verb)
    if verb == "align":
        lengths = sorted(pair_lengths(config.sources, config.pairs))
        return 2 * config.validation_pairs * mean_padded(lengths, config.rows / config.pairs)
    if verb == "finetune":
        sample = sampled_conversations(config.sources, config.conversations)
        mean = sum(tokens_of(each.messages) for each in sample) / len(sample)
        return config.validation_conversations * mean
    return None


def _compress(configs: Mapping[str, Any], shape: Shape, machine: Machine) -> tuple[float, float]:
    """Both models read each sequence, and their logits are compared."""
    config = configs["compress"]
    length = config.sequence_length
    logits = float(length * shape.vocab)
    seconds = reading_seconds(shape, 2.0 * config.sequences * length, machine)
    seconds += config.sequences * logits * COMPARED_SECONDS
    rest = 2 if config.kept_dtype == "bfloat16" else FP32
    small = shape.block_matrices * config.bits / 8 + (shape.parameters - shape.block_matrices) * rest
    held = FP32 * shape.parameters + small + COMPARED_BYTES * min(logits, float(READ_LOGITS))
    return MODEL_START + seconds, MODEL_BASE + held


def _export(configs: Mapping[str, Any], shape: Shape, machine: Machine) -> tuple[float, float]:
    """Our model and the other program's, both in fp32."""
    parameters = float(shape.parameters)
    seconds = READERS_START + parameters / WEIGHTS_PER_SECOND
    return seconds, READERS_BASE + 2 * FP32 * parameters


_TEXT = {"prepare": _prepare, "tokenize": _tokenize}
_MODEL = {"average": _average, "compress": _compress, "export": _export}


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
    }
    if machine.kind != "gpu":
        parts["allocator"] = CPU_GROWTH[0] * (parts["cache"] + parts["activations"])
    parts["process"] = float(CUDA_BASE if machine.kind == "gpu" else MODEL_BASE)
    read = reading_seconds(shape, float(models * config.validation_tokens), machine)
    seconds = MODEL_START + read + writing.seconds(shape, machine, "float32", weights)
    made = other_station(
        "evaluate", seconds, sum(parts.values()), "formula; answers of the greatest length", machine, prices
    )
    tokens = writing.read + writing.written + models * config.validation_tokens
    return made.model_copy(update={"memory": parts, "at_most": True, "tokens": tokens})


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


def text_bytes(configs: Mapping[str, Any]) -> tuple[float, float]:
    """Bytes of text that are made up and that the sources' files hold."""
    config = configs.get("prepare")
    if config is None:
        return 0.0, 0.0
    made = sum(config.atlas_size_bytes for source in config.sources if source.is_atlas)
    read = sum(_source_bytes(source) for source in config.sources if not source.is_atlas)
    return float(made), read


def _source_bytes(source: Any) -> float:
    return sum(path.stat().st_size * UNPACKED.get(path.suffix, 1.0) for path in _files(str(source.path)))


def _files(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    if path.is_dir():
        yield from (file for file in path.rglob("*") if file.is_file())
    elif path.is_file():
        yield path
    elif "*" in pattern:
        yield from (file for file in Path().glob(pattern) if file.is_file())

"""plan: what each station of a recipe will need, from its settings alone.

Stations that train are forecast by formula (`planning/`); those that write rows, and the others, in files of
their own.
Settings are read as they are: any station with rows, a context and an optimizer counts as one that trains.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

from modelwright.base.artifact import Cost
from modelwright.base.config import Config, trains, validate, writes
from modelwright.base.device import bf16_is_faster
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import canonical_json, read_json, sha256_text, write_json
from modelwright.data.conversations.sides import conversations_from, preferences_from
from modelwright.evaluation.page import duration, size
from modelwright.kernels import tiles
from modelwright.model.config import VOCABULARY
from modelwright.planning.activations import Batch
from modelwright.planning.adapted import Frozen
from modelwright.planning.duration import Work
from modelwright.planning.forecast import (
    FILE,
    Forecast,
    Rehearsed,
    StationForecast,
    compare,
    spent,
    training_station,
)
from modelwright.planning.machines import Machine, Prices, find_machine, load_prices
from modelwright.planning.memory import Training
from modelwright.planning.shape import Shape, find_shape
from modelwright.planning.sharding import NODE, Box, choose_box
from modelwright.planning.taught import Teacher
from modelwright.planning.trial_steps import with_step_rates
from modelwright.stages import rehearsal
from modelwright.stages.forecast_process import in_one_process
from modelwright.stages.forecast_rows import (
    answered,
    how_many,
    largest_padded,
    mean_padded,
    pack,
    pair_lengths,
    sampled_conversations,
    tokens_of,
)
from modelwright.stages.forecast_untrained import untrained
from modelwright.stages.forecast_writing import own_answers, synthesis
from modelwright.training.dial import settle

EXAMPLES_PER_SECOND, PAIRS_PER_SECOND = 9000, 4500
"""Conversations and pairs that are read, laid out by the chat template and tokenized, on one core: 0.11 and
0.22 ms each, measured on those of the embedded corpus."""
ATLAS_DOCUMENT = 100.0
"""Tokens of the document that the mean token of the embedded corpus stands in, with 4,096 ids (measured)."""
ATLAS_SECONDS = 0.5
"""About what the embedded corpus takes to think out its questions, once a process (measured on one core)."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What all stations of a forecast share."""

    machine: Machine
    prices: Prices
    devices: int = 1
    node: int = NODE
    """Devices of one machine: within it, `compute.shard: auto` and hsdp hold a copy together."""
    shard: Literal["none", "fsdp", "hsdp"] | None = None
    """In place of the stations' own `compute.shard`."""
    tensor: int | None = None
    """In place of the stations' own `compute.tensor_parallel`."""
    probe: bool = False
    """Rehearse a few real steps of each training."""
    say: Callable[[str], None] | None = None
    """Gets a line before something is measured that takes seconds."""


def forecast(
    name: str,
    configs: Mapping[str, Config],
    setting: Setting,
    model: Path | None = None,
) -> Forecast:
    """A recipe's stations, verb -> settings, in order. `model`: a folder that trainings start from, where the
    recipe does not make one."""
    stations: list[StationForecast] = []
    shape = _shape(configs, model)
    settings = ""
    for verb, config in _before_it_is_written(configs).items():
        if trains(config):
            if shape is None:
                raise UserError(
                    f"'{verb}' starts from a model that this recipe does not make: add --input model=FOLDER"
                )
            found = _trained(verb, config, shape, setting, _document(configs))
        elif writes(config):
            found = synthesis(verb, config, setting.machine, setting.prices)
        else:
            found = untrained(verb, configs, shape, setting.machine, setting.prices)
        found = found if trains(config) else _while_others_wait(found, setting)
        settings = sha256_text(canonical_json([settings, verb, configs[verb].model_dump(mode="json")]))
        stations.append(found.model_copy(update={"settings": settings}))
    here = setting.machine.kind == "cpu"  # a GPU's memory is given back between stations
    return Forecast(
        recipe=name,
        machine=setting.machine.name,
        machine_source=setting.machine.source,
        machine_memory=setting.machine.memory,
        devices=setting.devices,
        currency=setting.prices.currency,
        prices_as_of=setting.prices.as_of,
        stations=in_one_process(stations, setting.machine.memory) if here else tuple(stations),
    )


def _while_others_wait(found: StationForecast, setting: Setting) -> StationForecast:
    """A station that one device works on, while the others are paid for and, at most, take full power."""
    energy = found.energy_wh * setting.devices
    alone, all_of_them = (
        setting.prices.of(setting.machine.name, found.seconds, devices, watt_hours)
        for devices, watt_hours in ((1, found.energy_wh), (setting.devices, energy))
    )
    return found.model_copy(update={"energy_wh": energy, "money": found.money - alone + all_of_them})


def _before_it_is_written(configs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings, with the prompts of `synthesize` in the place of rows yet to be written: a guess."""
    if not {"synthesize", "finetune"} <= configs.keys():
        return configs
    tuning, prompts = configs["finetune"], configs["synthesize"].sources
    sources = tuple(read for each in tuning.sources for read in (prompts if each.is_written else (each,)))
    return {**configs, "finetune": tuning.model_copy(update={"sources": sources})}


def plan(
    name: str,
    configs: Mapping[str, Config],
    *,
    on: str = "here",
    devices: int = 1,
    node: int = NODE,
    shard: Literal["none", "fsdp", "hsdp"] | None = None,
    tensor: int | None = None,
    price_file: Path | None = None,
    probe: bool = False,
    model: Path | None = None,
    say: Callable[[str], None] | None = None,
) -> Forecast:
    """The same with a machine by name and prices from a file."""
    if devices < 1:
        raise ConfigError(f"--devices got {devices}, expected at least 1")
    if probe and devices > 1:
        raise ConfigError(f"--probe runs steps on one device: leave it out, or --devices {devices}")
    setting = Setting(find_machine(on), load_prices(price_file), devices, node, shard, tensor, probe, say)
    return forecast(name, configs, setting, model)


def keep(made: Forecast, folder: Path) -> Forecast:
    """Write a forecast into a run directory. What was said there of stations with the same settings stays as
    it is: it was said before they ran."""
    file = folder / FILE
    if file.is_file():
        before = validate(Forecast, read_json(file), str(file))
        said = {station.settings: station for station in before.stations}
        stations = tuple(said.get(station.settings, station) for station in made.stations)
        made = before if stations == before.stations else made.model_copy(update={"stations": stations})
    write_json(file, made.model_dump(mode="json"))
    return made


def before(made: Forecast, verb: str) -> str:
    """What a station will need, in words: "12 min 5 s, 1.4 GB"."""
    said = next(station for station in made.stations if station.station == verb)
    too_much = f", more than this machine has ({size(made.machine_memory)})" if said.fits is False else ""
    needs = f"{'at most about ' if said.at_most else ''}{duration(said.seconds)}, {size(said.peak_memory)}"
    return "; ".join((f"{needs}{too_much}", *said.notes))


def after(made: Forecast, verb: str, costs: Mapping[str, Cost]) -> str:
    """What a finished station took beside what was said of it, in words. `costs` of all that are finished:
    the peak of memory is the process's, so it is the station's only where none before it was larger."""
    row = next(row for row in compare(made, costs) if row.station == verb)
    memory = f"; {size(row.peak_memory)}, forecast {size(row.forecast_memory)}"
    most = " at most" if row.at_most else ""
    return (
        f"took {duration(row.seconds)}, forecast{most} {duration(row.forecast_seconds)}"
        f"{'' if row.inherited else memory}{'; ' + spent(row) if row.at_most else ''}"
    )


def plan_again(folder: Path, configs: Mapping[str, Config], name: str) -> tuple[Forecast, bool]:
    """What was forecast before a run, and True; or what is forecast of it now, where nobody asked before."""
    file = folder / FILE
    if file.is_file():
        return validate(Forecast, read_json(file), str(file)), True
    imported = folder / "import"
    return plan(name, configs, model=imported if imported.is_dir() else None), False


def _shape(configs: Mapping[str, Any], model: Path | None) -> Shape | None:
    if "pretrain" in configs:
        vocabulary = configs["tokenize"].vocab_size if "tokenize" in configs else VOCABULARY
        return Shape.of(configs["pretrain"].model.derive(vocabulary))
    if model is None and "import" in configs:
        model = Path(configs["import"].model)
        if model.suffix == ".gguf":
            raise UserError(
                f"import.model is {model}: a forecast does not open GGUF files. Import it first, then add"
                " --input model=RUN/import"
            )
    return find_shape(str(model)) if model else None


def _trained(verb: str, config: Any, shape: Shape, setting: Setting, document: float) -> StationForecast:
    """A station that trains: how many micro-batches of which shape, and what else it reads. `document`: as
    `_document` gives it, for pre-training."""
    if hasattr(config, "plan_for"):
        config = config.model_copy(update={"optimizer": settle(config.optimizer, shape.hidden)})
        training, work = _pretraining(config, shape, document)
    else:
        training, work = (_aligning if hasattr(config, "pairs") else _tuning)(config)
    training = _on(training, config, setting)
    machine = with_step_rates(setting.machine, training.dtype, setting.say)
    rehearsed: Rehearsed | None = None
    if setting.probe and machine.name == "here" and rehearsal.can_stand_for(training):
        rehearsed = rehearsal.in_a_process(shape.name, config, shape, training)
    return training_station(verb, shape, training, work, machine, setting.prices, rehearsed)


def _document(configs: Mapping[str, Any]) -> float:
    """Tokens of the document that the mean token of the corpus stands in; 0 where nobody knows: then rows
    count as one document each."""
    prepare = configs.get("prepare")
    known = prepare is not None and all(source.is_atlas for source in prepare.sources)
    return ATLAS_DOCUMENT if known else 0.0


def _pretraining(config: Any, shape: Shape, document: float) -> tuple[Training, Work]:
    plan = config.plan_for(config.tokens or 20 * shape.parameters)
    measured = _measurements(plan.steps, config) * config.validation_tokens
    batch = Batch(rows=config.rows, context=config.context, document=min(document, config.context))
    training = Training(batch=batch)
    return training, Work(
        steps=plan.steps, measured_tokens=measured, checkpoints=_checkpoints(plan.steps, config)
    )


def _tuning(config: Any) -> tuple[Training, Work]:
    """Conversations that share rows, or have one each and are padded among those of like length."""
    sample = sampled_conversations(config.sources, config.conversations)
    lengths = [tokens_of(each.messages) for each in sample]
    count = how_many(config.sources, config.conversations, partial(conversations_from, answered=False))
    packed, held_out = config.batching == "packed", config.validation_conversations
    if packed:
        filled = pack(lengths, count, config.context)
        apart = pack(lengths, held_out, config.context)
        usual, document, supervised = config.context, filled.document, filled.share * answered(sample)
        rows, held_out_rows = filled.rows, -(-apart.rows // config.rows) * config.rows
    else:
        usual = min(config.context, mean_padded(sorted(map(round, lengths)), config.rows / count))
        document, supervised = 0.0, answered(sample) * sum(lengths) / len(lengths) / usual
        rows, held_out_rows = count, held_out
    micro = max(1, ceil(rows * config.epochs / config.rows))
    steps = -(-micro // config.accumulation)
    atlas = any(source.is_atlas for source in config.sources)
    batch = Batch(rows=config.rows, context=config.context, masked=packed, document=document)
    own = own_answers(config, sample, count * config.epochs, micro)
    training = Training(batch=batch, supervised=min(1.0, supervised), own=own)
    return training, Work(
        steps=steps,
        share=usual / config.context,
        measured_tokens=round(held_out_rows * usual) * _measurements(steps, config),
        checkpoints=_checkpoints(steps, config),
        reading=count / EXAMPLES_PER_SECOND + (ATLAS_SECONDS if atlas else 0.0),
    )


def _aligning(config: Any) -> tuple[Training, Work]:
    """Pairs side by side, padded among those of like length."""
    lengths = sorted(pair_lengths(config.sources, config.pairs))
    pairs = how_many(config.sources, config.pairs, preferences_from)
    rows, usual = 2 * config.rows, mean_padded(lengths, config.rows / pairs)
    batch = Batch(
        rows=rows, context=min(config.context, largest_padded(lengths, config.rows / pairs)), masked=False
    )
    micro = -int(-pairs * config.epochs // config.rows)
    steps = -(-micro // config.accumulation)
    held_out = round(2 * config.validation_pairs * usual * (_measurements(steps, config) + 1))
    training = Training(batch=batch, fused_loss=False, supervised=0.4, rows_per_unit=2)
    return training, Work(
        steps=steps,
        share=usual / batch.context,
        measured_tokens=held_out,
        reference_tokens=round(2 * pairs * usual),
        checkpoints=_checkpoints(steps, config),
        reading=pairs / PAIRS_PER_SECOND,
    )


def _on(training: Training, config: Any, setting: Setting) -> Training:
    """With what the settings and the machine decide: formats, optimizer, kernels, checkpointing, shards."""
    machine = setting.machine
    compute, here = config.compute, machine.kind == "cpu"
    checkpointing = getattr(compute, "activation_checkpointing", "none")
    own = here and checkpointing != "selective"  # under it products are watched, and our kernels stand back
    wanted = compute.dtype
    if wanted == "auto":
        wanted = "bfloat16" if not here or bf16_is_faster("cpu") else "float32"
    batch = replace(
        training.batch,
        bytes=2 if wanted == "bfloat16" else 4,
        compiled_kernels=own,
        gpu_memory=machine.memory if machine.kind == "gpu" else 0.0,
        explicit_attention=here,
        tiled_attention=own and tiles.library() is not None,
        flex_attention=machine.kind == "gpu",
        recasts=own,
    )
    return replace(
        training,
        batch=batch,
        dtype=wanted,
        fp8=getattr(compute, "fp8", False),
        kind=machine.kind,
        accumulation=config.accumulation,
        optimizer=config.optimizer.kind,
        even_neurons=bool(config.optimizer.even_neurons),
        averages=_averages(config),
        adaptable=hasattr(config, "adapter") and config.adapter is None,
        frozen=_frozen(config),
        teacher=Teacher.of(getattr(config, "teacher", None)),
        box=_box(config, setting),
        checkpointing=checkpointing,
        checkpoint_every=getattr(compute, "checkpoint_every_block", 1),
    )


def _box(config: Any, setting: Setting) -> Box:
    """How the devices stand that train: as processes would, one on each. Beside an adapter each has all."""
    if getattr(config, "adapter", None):
        return Box(replicas=setting.devices)
    compute = config.compute
    how, size = (setting.shard, None) if setting.shard else (compute.shard, compute.shard_size)
    ways = setting.tensor or (compute.tensor_parallel if setting.devices > 1 else 1)
    return choose_box(setting.devices, how, ways, size if setting.devices > 1 else None, setting.node)


def _frozen(config: Any) -> Frozen | None:
    """How the model is held where an adapter is trained; None where all of it is."""
    adapter = getattr(config, "adapter", None)
    return Frozen(rank=adapter.rank, weights=config.weights) if adapter else None


def _averages(config: Any) -> int:
    """Copies of the weights that the loop averages."""
    averages = config.averages
    return len((*averages.half_lives, *averages.tails, *averages.powers))


def _measurements(steps: int, config: Any) -> int:
    return max(1, -(-steps // config.validate_every))


def _checkpoints(steps: int, config: Any) -> int:
    return max(1, -(-steps // config.checkpoint_every))

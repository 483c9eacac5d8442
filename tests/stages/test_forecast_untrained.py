"""What is forecast of stations that do not train, against what they make."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

from modelwright.environments.tasks import answer_length
from modelwright.evaluation import likelihood
from modelwright.inference.blocks import SIZE
from modelwright.inference.cache import DEFAULT_BYTES, blocks_of_cache
from modelwright.life import planning
from modelwright.life.loading import stage_config
from modelwright.model.flops import mean_token
from modelwright.model.transformer import Transformer
from modelwright.planning.forecast import StationForecast
from modelwright.planning.machines import GIB, Machine, Prices
from modelwright.recipes.recipe import load_recipe
from modelwright.stages.forecast import Setting, forecast
from modelwright.stages.forecast_process import PART
from modelwright.stages.forecast_rows import pack
from modelwright.stages.forecast_untrained import PROMPT_TOKENS, READ_LOGITS, READ_POSITIONS, READ_ROWS
from modelwright.training.batches import Example, Packed

MACHINE = Machine(
    name="of nobody",
    kind="cpu",
    memory=8 * GIB,
    bandwidth=1e10,
    rates={"float32": 1e11, "bfloat16": 1e11},
    watts=20.0,
)


def test_evaluate_is_forecast_with_one_model_and_the_cache_that_its_engine_makes() -> None:
    def station(*overrides: str) -> StationForecast:
        made = planning.forecast(load_recipe("quickstart", list(overrides), environment={}), on="l4")
        return next(each for each in made.stations if each.station == "evaluate")

    found = station()
    settings: Any = stage_config(load_recipe("quickstart", environment={}), "pretrain")
    config = settings.model.derive(4096)
    with torch.device("meta"):
        model = Transformer(config)
    blocks = blocks_of_cache(model, "auto", None, 200, 1024, PROMPT_TOKENS + answer_length.MAX_TOKENS)
    position = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert found.memory["cache"] == 4 * SIZE * blocks * position
    weights = 4 * model.num_parameters()
    assert weights < found.memory["weights"] <= weights + 4 * 4096 * config.hidden_size
    assert sum(found.memory.values()) == found.peak_memory
    fewer, shorter = station("evaluate.slots=20"), station("evaluate.suites=[multilingual]")
    assert fewer.memory["cache"] == pytest.approx(found.memory["cache"] / 10)
    assert shorter.memory["cache"] <= found.memory["cache"] / 2 and shorter.seconds < found.seconds / 5
    many = station("evaluate.slots=512", "evaluate.limit=999", "evaluate.max_tokens=2000", "model.depth=8")
    assert many.memory["cache"] == DEFAULT_BYTES


def test_what_is_assumed_of_reading_held_out_text_is_what_reads_it() -> None:
    assert (READ_ROWS, READ_POSITIONS, READ_LOGITS) == (
        likelihood.ROWS_PER_BATCH,
        likelihood.POSITIONS_PER_CHUNK,
        likelihood.LOGITS_PER_CHUNK,
    )


def test_conversations_that_share_rows_are_packed_as_training_packs_them() -> None:
    """The mean token's document, rows and what is learned, against the rows that a fine-tuning is given."""
    random, context = Random(0), 512
    lengths = [random.randint(20, 120) for _ in range(200)]
    examples = [Example(range(length), [False] + [True] * (length - 1)) for length in lengths]
    packed = Packed(examples, rows=1, length=context, seed=3, padding=0)
    real = mean_token(packed.__getitem__, len(packed))
    found = pack(lengths, 200, context)
    assert found.rows == pytest.approx(len(packed), abs=1)
    assert found.document == pytest.approx(real.context(), rel=0.1)
    assert found.share == pytest.approx(real.supervised, rel=0.05)
    many = pack(lengths, 20_000, context)
    assert many.rows == pytest.approx(20_000 * sum(lengths) / 200 / context, rel=0.03)
    assert pack([9000.0], 3, context).rows == 3


def test_stations_of_a_run_count_what_others_leave_in_its_process() -> None:
    def stations(*overrides: str) -> dict[str, StationForecast]:
        recipe = load_recipe("tiny", ["pretrain.compute.dtype=float32", *overrides], environment={})
        configs = {verb: stage_config(recipe, verb) for verb in recipe.stages}
        made = forecast("tiny", configs, Setting(MACHINE, Prices()))
        return {each.station: each for each in made.stations}

    run, text = stations(), stations("stages=[prepare, tokenize]")
    held = {name: each.memory[PART] for name, each in run.items()}
    assert held["prepare"] > held["pretrain"] and text["prepare"].memory[PART] == 0
    assert held["pretrain"] < held["finetune"] == held["align"] < held["average"] == held["export"]
    assert all(sum(each.memory.values()) == pytest.approx(each.peak_memory) for each in run.values())
    alone = stations("stages=[prepare]")["prepare"]
    assert PART not in alone.memory and alone.peak_memory == text["prepare"].peak_memory


def test_stations_without_training_are_counted_by_what_they_read() -> None:
    def station(verb: str, *overrides: str) -> StationForecast:
        made = planning.forecast(load_recipe("quickstart", list(overrides), environment={}), on="l4")
        return next(each for each in made.stations if each.station == verb)

    slow = station("average", "average.soup=false").seconds, station("average").seconds
    assert slow[0] < slow[1] < 3 * slow[0]
    widths = [station("average", f"model.depth={depth}").peak_memory for depth in (4, 8)]
    assert widths[1] > 2 * widths[0]
    twice = station("compress", "compress.sequences=128").seconds / station("compress").seconds
    assert 1.4 < twice < 2
    more = station("prepare", "data.atlas_size_bytes=10000000")
    assert more.peak_memory > station("prepare").peak_memory and more.seconds < 10
    assert station("tokenize", "tokenizer.sample_bytes=1000").seconds < station("tokenize").seconds

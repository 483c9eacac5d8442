"""What is forecast of stations that do not train, against what they make."""

from __future__ import annotations

import pytest
import torch

from modelwright.environments.tasks import answer_length
from modelwright.evaluation import likelihood
from modelwright.inference.blocks import SIZE
from modelwright.inference.cache import DEFAULT_BYTES, blocks_of_cache
from modelwright.life import planning
from modelwright.life.loading import stage_config
from modelwright.model.transformer import Transformer
from modelwright.planning.forecast import StationForecast
from modelwright.recipes.recipe import load_recipe
from modelwright.stages.forecast_untrained import PROMPT_TOKENS, READ_LOGITS, READ_POSITIONS, READ_ROWS


def test_evaluate_is_forecast_with_one_model_and_the_cache_that_its_engine_makes() -> None:
    def station(*overrides: str) -> StationForecast:
        made = planning.forecast(load_recipe("quickstart", list(overrides), environment={}), on="l4")
        return next(each for each in made.stations if each.station == "evaluate")

    found = station()
    config = stage_config(load_recipe("quickstart", environment={}), "pretrain").model.derive(4096)
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

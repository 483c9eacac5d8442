"""What a teacher adds to memory and time."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests.planning.test_forecast import forecast

from modelwright.base.errors import UserError
from modelwright.compression.quantize import quantize
from modelwright.formats.frozen import load_frozen
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.quantized import Scheme
from modelwright.planning.activations import Batch
from modelwright.planning.duration import STEP_CONSTANT, Work, forecast_duration, step_seconds, update_seconds
from modelwright.planning.machines import find_machine
from modelwright.planning.memory import Training, training_memory
from modelwright.planning.shape import known_shape
from modelwright.planning.taught import Teacher

STUDENT, LARGE = known_shape("qwen3-0.6b"), known_shape("qwen3-4b")
ALONE = Training(batch=Batch(rows=2, context=512), kind="gpu", optimizer="adamw", averages=0)
TAUGHT = replace(ALONE, teacher=Teacher(shape=LARGE))


@dataclass(frozen=True)
class Settings:
    model: Path


def bytes_of(model: torch.nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def test_a_teacher_takes_its_weights_and_a_third_of_the_time_of_its_training() -> None:
    alone, taught = training_memory(STUDENT, ALONE), training_memory(STUDENT, TAUGHT)
    assert taught.teacher == 2 * LARGE.parameters and taught.parts["teacher"] == taught.teacher
    assert (taught.gradients, taught.optimizer) == (alone.gradients, alone.optimizer)
    assert taught.total > alone.total + taught.teacher
    assert sum(taught.parts.values()) == taught.total and "teacher" not in alone.parts
    machine, work = find_machine("H100"), Work(steps=100)
    without, with_it = (forecast_duration(STUDENT, each, work, machine).steps for each in (ALONE, TAUGHT))
    idle = update_seconds(LARGE, ALONE, machine) + STEP_CONSTANT
    arithmetic = 100 * (step_seconds(LARGE, ALONE, machine) - idle)
    assert with_it - without == pytest.approx(arithmetic / 3)
    rehearsed = [forecast_duration(STUDENT, each, work, machine, 0.5).steps for each in (ALONE, TAUGHT)]
    assert rehearsed[1] - rehearsed[0] == pytest.approx(with_it - without), "no teacher is rehearsed"


def test_a_teacher_is_held_as_its_folder_says(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    plain = tiny_model("llama", hidden_size=64)
    for product, dtype in ((2, torch.bfloat16), (4, torch.float32)):
        found = Teacher.of(Settings(model=plain))
        assert found is not None
        assert found.held_bytes(product) == pytest.approx(bytes_of(load_frozen(plain, dtype)), rel=0.02)
    save_model(tmp_path, quantize(load_model(plain), Scheme(8)), plain)
    eight = Teacher.of(Settings(model=tmp_path))
    assert eight is not None
    held = bytes_of(load_frozen(tmp_path, torch.bfloat16))
    assert eight.held_bytes(2) == eight.held_bytes(4) == pytest.approx(held, rel=0.05)
    assert Teacher.of(None) is None
    with pytest.raises(UserError, match="no model shape is known as"):
        Teacher.of(Settings(model=tmp_path / "nowhere"))


def test_the_plan_of_a_recipe_counts_its_teacher(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("llama", hidden_size=64)
    (before,) = (each for each in forecast().stations if each.station == "finetune")
    teacher = f"finetune.teacher={json.dumps({'model': str(folder)})}"
    (after,) = (each for each in forecast(teacher).stations if each.station == "finetune")
    assert after.memory["teacher"] > 0 and "teacher" not in before.memory
    assert after.peak_memory > before.peak_memory
    assert after.seconds > before.seconds and after.flops > before.flops

"""The teacher of a distillation: a frozen model in the same process, which has the student's vocabulary."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from modelwright.base.device import Device
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import name_beside
from modelwright.base.policy import stated_facts
from modelwright.base.provenance import Provenance, personal_data_flag
from modelwright.base.run import Run
from modelwright.base.seams import Objective
from modelwright.base.world import join
from modelwright.data.readers.source import Stated
from modelwright.formats.card import licence_behind
from modelwright.formats.frozen import load_frozen
from modelwright.formats.locate import files_mark
from modelwright.model.flops import MeanToken
from modelwright.objectives import distill
from modelwright.tokenizer.bpe import BPETokenizer


class TeacherConfig(distill.Config, Stated):
    """A model to learn from, how, and what is known of it."""

    model: Path
    """A Hugging Face folder with the student's tokenizer, quantized or not. It is not changed."""
    licence: str = ""
    """SPDX identifier. Where nothing is said: what the manifest or the card of its folder says, else
    "unknown"."""
    on_policy: float = Field(default=0.0, ge=0, le=1)
    """Share of the micro-batches in which the student writes the answers (GKD's lambda)."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer that it writes there."""


def facts(config: TeacherConfig) -> Provenance:
    """The teacher as a source of its own: its student learns from it as from a text."""
    licence = config.licence or licence_behind(config.model)
    flag = personal_data_flag(config.personal_data)
    known = stated_facts(licence, config.jurisdiction, flag, config.legal_basis, config.retention)
    return Provenance(by_source={f"teacher {config.model}": known})


def mark(config: TeacherConfig) -> str:
    """Changes when the teacher's files do."""
    if not config.model.is_dir():
        raise UserError(
            f"teacher.model is {config.model}, and there is no such folder: expected a model's."
            f"{name_beside(config.model)}"
        )
    return files_mark(config.model)


def only_one_process() -> ConfigError:
    """What is said where several processes would train with a teacher."""
    return ConfigError(
        "a teacher is held by one process whole, and several have not been tried: start one (without"
        " torchrun), or leave out finetune.teacher"
    )


def distillation(
    config: TeacherConfig, tokenizer: BPETokenizer, device: Device, run: Run, mean: MeanToken
) -> tuple[Objective, float]:
    """(the objective with its teacher, FLOPs that the teacher's reading of the mean token takes)."""
    if join().size > 1:
        raise only_one_process()
    check_same(tokenizer, BPETokenizer.load(config.model), config.model)
    teacher = load_frozen(config.model, device.dtype).to(device.name).eval().requires_grad_(False)
    if teacher.config.vocab_size < tokenizer.vocab_size:
        raise UserError(
            f"{config.model} has rows for {teacher.config.vocab_size:,} tokens, and its tokenizer makes"
            f" {tokenizer.vocab_size:,}: the folder's parts are of different models"
        )
    run.brings_in(facts(config))
    run.log(f"teacher: {config.model}, {teacher.num_parameters():,} parameters")
    return distill.Distillation(teacher.on_batch, config), mean.forward_flops(teacher.config)


def check_same(student: BPETokenizer, teacher: BPETokenizer, folder: Path) -> None:
    """Refuse a teacher whose ids mean something else: probabilities are compared id by id. One that has the
    same tokens in the same places may pad, begin and answer in its own way: it reads the student's rows."""
    ours, theirs = student.tokens, teacher.tokens
    if ours == theirs:
        return
    place = next((n for n, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
    differ = f"{len(ours):,} and {len(theirs):,} tokens" if place is None else f"id {place} is another token"
    raise ConfigError(
        f"the teacher {folder} has another vocabulary than the model that is trained ({differ}): their"
        " probabilities cannot be compared token by token. Take a teacher of the same family, or let it write"
        " answers and train on those as on any data"
    )

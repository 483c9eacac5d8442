"""average: the last checkpoints of a training stage -> the weight average that validates best.

Candidates are the last weights, their exponential moving average, and the uniform average of the last
k checkpoints. Each is judged as training was judged, on held-out data; all are reported in
`candidates.json`, and the best is handed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config as BaseConfig
from modelwright.base.errors import UserError
from modelwright.base.files import atomic_directory, write_json
from modelwright.base.metrics import in_words
from modelwright.base.run import Run
from modelwright.compression.average import uniform
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.transformer import Transformer
from modelwright.stages.text_view import TextView
from modelwright.stages.views import ConversationView, PairView
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.checkpoint import Checkpoints
from modelwright.training.ema import average_from_state
from modelwright.training.loop import Validate

INPUTS: tuple[str, ...] = ("tokens", "model")

V = TypeVar("V", bound=BaseConfig)


class Config(BaseConfig):
    """How many checkpoints, and how much text the candidates are also measured on."""

    last: int = Field(default=3, gt=1)
    """Checkpoints in the uniform average; fewer if the stage kept fewer."""
    validation_tokens: int = Field(default=25_000, gt=0)
    """Held-out tokens that each candidate's bits per byte is measured on."""


def run(config: Config, run: Run) -> Artifact:
    """Measure all candidates, save the best as a Hugging Face folder."""
    source = run.input("model")
    parent = source.file("model")
    tokenizer = BPETokenizer.load(parent)
    model = load_model(parent)
    candidates = gather(source, config.last)
    validate = judge_of(source, model, tokenizer, run)
    shards = TokenShards.open(run.input("tokens").file("validation"))
    text = TextView(validation_tokens=config.validation_tokens).measure(model, shards, tokenizer)
    rows: list[dict[str, Any]] = []
    with run.progress("candidates", len(candidates)) as bar, torch.no_grad():
        for name, weights in candidates.items():
            model.load_state_dict(weights)
            rows.append({"candidate": name, **text(), **validate()})
            bar.advance()
    best = min(rows, key=lambda row: row[judged_by(source.stage)])
    for row in rows:
        row["chosen"] = row is best
        run.log(describe(row))
    model.load_state_dict(candidates[best["candidate"]])
    with atomic_directory(run.dir / "model") as folder:
        save_model(folder, model, parent)
    write_json(run.dir / "candidates.json", {"judged_by": judged_by(source.stage), "candidates": rows})
    return run.finish(["model", "candidates.json"], {**best, "averaged_stage": source.stage})


def describe(row: Mapping[str, Any]) -> str:
    """A candidate's figures for the log, and whether it was chosen."""
    figures = [f"{in_words(name)} {value:.4f}" for name, value in row.items() if isinstance(value, float)]
    return f"{row['candidate']}{' (chosen)' if row['chosen'] else ''}: {', '.join(figures)}"


def gather(source: Artifact, last: int) -> dict[str, Mapping[str, Tensor]]:
    """Candidate name -> weights."""
    kept = Checkpoints(source.path / "checkpoints", keep=1).all()
    if not kept:
        raise UserError(f"{source.path} has no checkpoints to average: run '{source.stage} --force'")
    for checkpoint in kept:
        checkpoint.verify()
    tail = kept[-last:]
    return {
        "last": tail[-1].tensors("model"),
        "ema": average_from_state(tail[-1].tensors("ema"), float(tail[-1].state()["ema_decay"])),
        f"uniform of last {len(tail)}": uniform(checkpoint.tensors("model") for checkpoint in tail),
    }


def judge_of(source: Artifact, model: Transformer, tokenizer: BPETokenizer, run: Run) -> Validate:
    """The held-out measure that the training stage itself used, from its manifest."""
    settings, seed = source.manifest.config, source.manifest.seed
    if source.stage == "finetune":
        return _view(ConversationView, settings).measure(model, tokenizer, run, seed)
    if source.stage == "align":
        start = next(parent for parent in source.manifest.parents if parent.role == "model")
        start_model, lost = source.parent(start)
        if start_model is None:
            raise UserError(f"the reference that {source.path} was aligned against is {lost}: align again")
        reference = load_model(start_model.file("model"))
        return _view(PairView, settings).measure(model, reference, tokenizer, run, seed)
    return lambda: {}  # pre-training is judged by the bits per byte that every candidate gets


def judged_by(stage: str) -> str:
    """The metric to minimise."""
    return "validation_loss" if stage in ("finetune", "align") else "validation_bits_per_byte"


def _view(kind: type[V], settings: Mapping[str, Any]) -> V:
    return kind.model_validate({name: settings[name] for name in kind.model_fields})

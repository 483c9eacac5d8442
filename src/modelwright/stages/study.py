"""study: how large should the vocabulary be? Sizes against languages, text length, and bits per byte.

For each size a vocabulary is learned by `tokenize` and, if asked, a small model trained by `pretrain` on the
same amount of text: these stages do the work, this one only compares. Each cell is a folder with a manifest,
so an interrupted study goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import write_json, write_text
from modelwright.base.progress import View
from modelwright.base.run import Run
from modelwright.data.corpus import read_corpus
from modelwright.model.config import ModelChoice
from modelwright.model.transformer import Transformer
from modelwright.stages import pretrain, tokenize
from modelwright.stages.cells import cell
from modelwright.stages.parallel_text import read_parallel
from modelwright.stages.pretrain import Config as PretrainConfig
from modelwright.stages.study_findings import Findings, Language, Size, recommend
from modelwright.stages.study_page import render, table
from modelwright.stages.tokenize import Config as TokenizeConfig
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.fertility import Fertility, Inequality, Meter
from modelwright.training.compute import ComputeConfig

INPUTS: tuple[str, ...] = ("corpus",)
PAGE, FIGURES = "study.html", "study.json"
EVERYWHERE_ALIKE = ComputeConfig(dtype="float32", compile="never")
"""Which format is the faster one is timed elsewhere; a study gives the same figures twice."""
SMALL = ModelChoice(depth=2, hidden_size=128, head_dim=32, max_position_embeddings=256)


class Config(config.Config):
    """Which vocabularies are compared, and on what."""

    vocab_sizes: tuple[int, ...] = Field(default=(1024, 2048, 4096, 8192), min_length=1)
    """Sizes to try; doublings show the most."""
    tokenizer: TokenizeConfig = TokenizeConfig()
    """How each is learned; its own `vocab_size` is not looked at."""
    parallel: Path | None = None
    """A file with the same text in many languages, to see how unequal they come out: JSON Lines with
    `language` and `text`, or the Universal Declaration's (`iso639_3`, `script`, `articles`)."""
    reference: str = "eng"
    """The language that the others are compared with."""
    train_bytes: int = Field(default=2_000_000, ge=0)
    """Text that a small model of each size is trained on; 0 trains none."""
    validation_bytes: int = Field(default=100_000, gt=0)
    """Held-out text on which its bits per byte are measured."""
    step_bytes: int = Field(default=4096, gt=0)
    """Text in one step of its training, the same for all sizes: so all take the same number of steps."""
    pretrain: PretrainConfig = PretrainConfig(model=SMALL, context=128, compute=EVERYWHERE_ALIKE)
    """The small model and how it is trained; its own `tokens`, `rows` and `validation_tokens` follow from the
    three settings above."""
    target: ModelChoice = ModelChoice()
    """The model that the vocabulary is for: what the embedding costs is stated against it."""


def run(config: Config, run: Run, view: View | None = None) -> Artifact:
    """Fill every cell, compare, recommend; leave the figures and a page."""
    corpus = run.input("corpus")
    held_out = [document.text for document in read_corpus(corpus.file("validation"))]
    if not held_out:
        raise UserError(f"the corpus {corpus.path} has no held-out documents to compare on")
    texts = read_parallel(config.parallel, config.reference) if config.parallel else {}
    sizes: list[Size] = []
    languages: list[Language] = []
    with run.progress("vocabulary sizes", len(config.vocab_sizes)) as task:
        for vocab_size in sorted(set(config.vocab_sizes)):
            tokens = tokenize_cell(config, run, vocab_size, view)
            size, found = measure(config, tokens, held_out, texts)
            if sizes and size.vocab_size == sizes[-1].vocab_size:
                run.log(f"the text holds too little for {vocab_size:,} ids: larger sizes are left out")
                break
            if config.train_bytes:
                size = size.trained(pretrain_cell(config, run, tokens, size, view).metrics)
            sizes.append(size)
            languages += found
            task.advance()
    findings = Findings(tuple(sizes), tuple(languages), config.reference, recommend(sizes))
    write_json(run.dir / FIGURES, findings.as_json())
    write_text(run.dir / PAGE, render(findings, config.target.depth))
    for line in (*table(findings), "", *findings.recommendation.reasons):
        run.log(line)
    return run.finish([FIGURES, PAGE], {"recommended_vocab_size": findings.recommendation.vocab_size})


def tokenize_cell(config: Config, run: Run, vocab_size: int, view: View | None) -> Artifact:
    """The vocabulary of one size, and the corpus in it."""
    settings = TokenizeConfig.model_validate({**config.tokenizer.model_dump(), "vocab_size": vocab_size})
    return cell(run, tokenize, "tokens", settings, f"{vocab_size}", run.inputs, view)


def pretrain_cell(config: Config, run: Run, tokens: Artifact, size: Size, view: View | None) -> Artifact:
    """A small model in that vocabulary. Each reads the same bytes, not the same tokens."""
    held_out = tokens.metrics["validation_bytes_per_token"] or 1.0
    per_token = size.fertility.bytes_per_token
    amounts = {
        "tokens": max(1, round(config.train_bytes / per_token)),
        "rows": max(1, round(config.step_bytes / (per_token * config.pretrain.context))),
        "validation_tokens": max(1, round(config.validation_bytes / held_out)),
    }
    settings = PretrainConfig.model_validate({**config.pretrain.model_dump(), **amounts})
    return cell(run, pretrain, "base", settings, f"{size.vocab_size}", {"tokens": tokens}, view)


def measure(
    config: Config, tokens: Artifact, held_out: Sequence[str], texts: dict[str, str]
) -> tuple[Size, list[Language]]:
    """Held-out text and every language in one vocabulary."""
    tokenizer = BPETokenizer.load(tokens.file("tokenizer"))
    meter = Meter(tokenizer)
    fertility = meter.measure(held_out)
    unused = meter.unused
    by_language: dict[str, Fertility] = {name: meter.measure([text]) for name, text in texts.items()}
    unequal = None
    if by_language:
        counts = {name: found.tokens for name, found in by_language.items()}
        unequal = Inequality.of(counts, config.reference)
    shape = config.target.derive(tokenizer.vocab_size)
    size = Size(
        vocab_size=tokenizer.vocab_size,
        fertility=fertility,
        unused=unused,
        embedding_parameters=shape.vocab_size * shape.hidden_size * (1 if shape.tie_word_embeddings else 2),
        target_parameters=target_parameters(config.target, tokenizer.vocab_size),
        gini=unequal.gini if unequal else None,
        worst_over_median=unequal.worst_over_median if unequal else None,
    )
    rows = [
        Language(tokenizer.vocab_size, name, unequal.premium[name] if unequal else 1.0, found)
        for name, found in by_language.items()
    ]
    return size, rows


def target_parameters(choice: ModelChoice, vocab_size: int) -> int:
    """Parameters of the model that the vocabulary is for, counted without memory for them."""
    with torch.device("meta"):
        return Transformer(choice.derive(vocab_size)).num_parameters()


def check(settings: dict[str, Any]) -> Config:
    """The settings, and whether the parallel texts can be read: before any work."""
    chosen = config.validate(Config, settings, "the study")
    if chosen.parallel:
        read_parallel(chosen.parallel, chosen.reference)
    return chosen


def study(
    folder: Path, corpus: Path, settings: dict[str, Any], seed: int, view: View | None = None
) -> Artifact:
    """The study of a corpus (the folder of a `prepare`) in `folder`: what the command line calls."""
    chosen = check(settings)
    work = Run(folder, "study", "study", chosen, seed, {"corpus": Artifact.load(corpus)}, view)
    try:
        return run(chosen, work, view)
    finally:
        work.close()

"""What fine-tuning by each side leaves: the loss of held-out conversations, by the same code in fp32."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from modelwright.base.device import keep_freed_memory
from modelwright.base.run import Run
from modelwright.formats import peft
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.adaptation import AdapterConfig, adapt, adapter_of
from modelwright.model.config import ModelConfig
from modelwright.model.init import initialize
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.training.averages import AveragesConfig
from modelwright.training.batches import Packed, Windows
from modelwright.training.loop import LoopConfig, mean_loss, train
from novels import Tokens, texts
from sft_data import MODEL, Prepared, learned_tokenizer, prepared, write_tokens
from sft_ours import RATE, Method, load, train_ours
from sft_peers import Way, make_trainer

SIDES = "full", "lora", "qlora", "TRL, full", "TRL, lora"
RANK, EPOCHS = 16, 1
NOVELS, PRETRAINING = 12, 120
"""How many novels the small network is trained on first, and in how many steps of 4,096 tokens."""


def prepare_small(folder: Path, shape: ModelConfig, context: int, steps: int = PRETRAINING) -> float:
    """Train a small network on novels, and lay out the conversations; the loss that they have before."""
    keep_freed_memory()
    tokenizer = learned_tokenizer(shape.vocab_size)
    tokenizer.save(folder / "tokenizer")
    ids = [
        np.array([*tokenizer.encode(text[:400_000]), tokenizer.end_of_text_id]) for text in texts()[:NOVELS]
    ]
    windows = Windows(Tokens(np.concatenate(ids)), 16, 256, seed=0, end_of_text=tokenizer.end_of_text_id)
    model = Transformer(shape, torch.bfloat16)
    initialize(model, 1)
    averages = AveragesConfig(half_lives=())
    config = LoopConfig(averages=averages, validate_every=10**9, checkpoint_every=10**9)
    run = Run(folder / "pretrain", "pretrain", "base", config, seed=0)
    train(
        model,
        NextToken(),
        windows,
        config.plan(steps),
        config,
        run,
        validate=dict,
        matmul_dtype=torch.bfloat16,
    )
    run.close()
    save_model(folder / MODEL, model, folder / "tokenizer")
    write_tokens(folder, tokenizer, context)
    return held_out_loss(load_model(folder / MODEL), prepared(folder), context)


@torch.no_grad()
def held_out_loss(model: Transformer, start: Prepared, context: int) -> float:
    """Nats a token of the assistant's held-out turns."""
    return mean_loss(model, NextToken(), Packed(start.held_out, 8, context, 0, start.padding))["loss"]


def tuned_loss(base: Path, side: str, rows: int, context: int, seed: int) -> float:
    """Fine-tune by a side, and measure."""
    start = prepared(base)
    with tempfile.TemporaryDirectory() as name:
        tuned = _by_trl if side.startswith("TRL") else _by_us
        model = tuned(start, side.removeprefix("TRL, "), rows, context, seed, Path(name))  # type: ignore[arg-type]
        return held_out_loss(model, start, context)


def _by_us(start: Prepared, method: Method, rows: int, context: int, seed: int, folder: Path) -> Transformer:
    model = load(start.model, method, RANK, seed)
    packed = Packed(start.train, rows, context, seed, start.padding, EPOCHS)
    train_ours(model, packed, len(packed), method, seed, folder)
    if method == "full":
        model.compute_dtype = torch.float32
        return model
    peft.save_adapter(folder / "adapter", adapter_of(model), model, base=str(start.model))
    return _adapted(start, folder / "adapter")


def _by_trl(start: Prepared, method: Method, rows: int, context: int, seed: int, folder: Path) -> Transformer:
    rank = None if method == "full" else RANK
    trainer = make_trainer(
        start,
        Way(packed=True, compiled=False),
        folder / "trainer",
        rows=rows,
        context=context,
        rate=RATE[method],
        seed=seed,
        epochs=EPOCHS,
        rank=rank,
    )
    trainer.train()
    trainer.model.save_pretrained(folder / "made")
    return _adapted(start, folder / "made") if rank else load_model(folder / "made")


def _adapted(start: Prepared, adapter: Path) -> Transformer:
    """The model as it was, in fp32, with an adapter in PEFT's format."""
    model = load_model(start.model)
    adapt(model, AdapterConfig(), 0, peft.load_adapter(adapter))
    return model

"""The peer of fine-tuning: TRL's SFTTrainer, with peft's LoRA, set up for speed on a CPU.

It begins with the same weights, reads the same ids and labels, and has the settings of the optimizer that our
side has: fused AdamW, a constant rate, gradients cut to norm 1. Gradient checkpointing, which TRL switches on
by itself, is off: it computes each block twice. Compiled ways can be stated (`Way`), and are not measured.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from modelwright.base.device import keep_freed_memory
from modelwright.base.schema import IGNORE
from modelwright.training.batches import Example
from record import Pace
from sft_data import Prepared


@dataclass(frozen=True, slots=True)
class Way:
    """How TRL lays out and computes a step."""

    packed: bool
    """Best-fit packing into rows that are read one by one, where conversations do not see each other; else
    padded rows of like length."""
    compiled: bool
    rows: int = 1
    """Of a micro-batch; packed ones are laid end to end."""


WAYS = {
    "TRL, packed": Way(packed=True, compiled=False),  # rows end to end were slower: 340 against 482 tokens/s
    "TRL, padded": Way(packed=False, compiled=False, rows=4),
}


def labelled(examples: list[Example]) -> Any:
    """Ids, and what is learned of them, as SFTTrainer takes a prepared dataset."""
    from datasets import Dataset

    labels = [[i if m else IGNORE for i, m in zip(e.ids, e.mask, strict=True)] for e in examples]
    return Dataset.from_dict({"input_ids": [e.ids for e in examples], "labels": labels})


def _tokens(batch: Any) -> int:
    mask = batch.get("attention_mask")
    return int(batch["input_ids"].numel() if mask is None else mask.sum())


class Turns(TrainerCallback):
    """Ends a turn at the end of a step and reports tokens per second."""

    def __init__(self, warm_up: int) -> None:
        self._pace = Pace(warm_up)
        self._start = time.perf_counter()
        self.tokens = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        seconds = time.perf_counter() - self._start
        self._pace({"rate": self.tokens / seconds})
        self._start, self.tokens = time.perf_counter(), 0


def make_trainer(
    start: Prepared,
    way: Way,
    folder: Path,
    *,
    rows: int,
    context: int,
    rate: float,
    seed: int,
    epochs: int,
    rank: int | None,
    turns: Turns | None = None,
    keep_memory: bool = True,
) -> Any:
    """SFTTrainer for steps of `rows` rows; with a `rank`, of LoRA beside weights in bf16."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    class Counting(SFTTrainer):
        """Tells how many tokens a step reads; padding is none."""

        def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
            batches, items = super().get_batch_samples(*args, **kwargs)
            if turns:
                turns.tokens = sum(map(_tokens, batches))
            return batches, items

    if keep_memory:
        keep_freed_memory()
    dtype = torch.bfloat16 if rank else torch.float32  # autocast multiplies either in bf16
    model = AutoModelForCausalLM.from_pretrained(start.model, dtype=dtype, attn_implementation="sdpa")
    config = SFTConfig(
        str(folder),
        per_device_train_batch_size=way.rows,
        gradient_accumulation_steps=rows // way.rows,
        num_train_epochs=epochs,
        max_length=context,
        packing=way.packed,
        train_sampling_strategy="random" if way.packed else "group_by_length",
        pad_to_multiple_of=context if way.packed and way.compiled else None,
        learning_rate=rate,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim="adamw_torch_fused",
        bf16=True,
        use_cpu=True,
        torch_compile=way.compiled,
        gradient_checkpointing=False,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    lora = None
    if rank:
        lora = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    return Counting(
        model,
        args=config,
        train_dataset=labelled(start.train),
        processing_class=AutoTokenizer.from_pretrained(start.model),
        peft_config=lora,
        callbacks=[turns] if turns else [],
    )

"""The novels that several benchmarks train on, and ids in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from modelwright.tokenizer.learn import learn

NOVELS = Path(__file__).parents[2] / "shared" / "data" / "litbank_novels"
SOURCE = (
    f"{{path: '{NOVELS / '*.parquet'}', name: novels, licence: LicenseRef-public-domain, jurisdiction: US, "
    "legal_basis: public domain, retention: indefinite, personal_data: false}"
)
"""As a recipe's `data.sources` names them."""


class Tokens:
    """Ids in memory, as training reads them."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, length: int) -> np.ndarray:
        return self.ids[start : start + length]


def texts() -> list[str]:
    """All novels, in their order."""
    files = sorted(NOVELS.glob("*.parquet"))
    if not files:
        raise SystemExit(f"{NOVELS} holds no novels: this benchmark needs them")
    return [text for file in files for text in pq.read_table(file, columns=["text"])["text"].to_pylist()]


def encoded(cache: Path, vocabulary: int) -> tuple[Tokens, Tokens]:
    """(text to train on, held-out text) in a vocabulary learned from novels; every tenth is held out. Made
    once and kept in `cache`, an .npz file."""
    if not cache.exists():
        novels = texts()
        tokenizer = learn([text[:100_000] for text in novels[1::10]], vocabulary)
        end = tokenizer.end_of_text_id
        ids = [np.array([*tokenizer.encode(text[:400_000]), end], dtype=np.int64) for text in novels]
        seen = np.concatenate([each for number, each in enumerate(ids) if number % 10])
        np.savez(cache, seen=seen, held_out=np.concatenate(ids[::10]))
    loaded = np.load(cache)
    return Tokens(loaded["seen"]), Tokens(loaded["held_out"])


def spread(text: Tokens, rows: int, context: int) -> Tensor:
    """`rows` windows of context + 1 tokens, at equal distances over a text."""
    starts = np.linspace(0, len(text) - context - 2, rows).astype(int)
    return torch.from_numpy(np.stack([text.read(start, context + 1) for start in starts]))

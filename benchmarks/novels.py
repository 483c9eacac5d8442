"""The novels that several benchmarks train on, and ids in memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

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

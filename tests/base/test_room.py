"""Memory that has ended is told from other failures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modelwright.base.errors import UserError
from modelwright.base.room import saying_when_full


def test_a_tensor_that_finds_no_memory_is_an_error_in_words(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"memory has ended: .*`modelwright plan` says"),
        saying_when_full(tmp_path),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(UserError, match="memory has ended"), saying_when_full(tmp_path):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_other_failures_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shapes"), saying_when_full(tmp_path):
        raise RuntimeError("shapes do not fit")

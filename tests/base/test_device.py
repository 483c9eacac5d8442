"""Choosing a device: what is asked for and not there is said in words."""

from __future__ import annotations

import pytest
import torch

from modelwright.base.device import choose
from modelwright.base.errors import UserError


def test_a_gpu_that_is_not_there_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no GPU here: take 'cpu' or 'auto'"):
        choose("cuda", "float32")
    chosen = choose("auto", "float32")
    assert (chosen.name, chosen.dtype) == ("cpu", torch.float32)

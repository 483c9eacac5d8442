from __future__ import annotations

import pytest
import torch

from modelwright.kernels import native


@pytest.fixture(params=["native", "plain"])
def each_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to compute: with the compiled kernels, where they can be built, and without."""
    if request.param == "plain":
        monkeypatch.setattr(native, "usable", lambda *tensors: False)
    elif native.library(torch.float32) is None:
        pytest.skip("no C++ compiler here")

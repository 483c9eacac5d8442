"""Both paths, compiled and plain, for every test that takes `path`."""

from __future__ import annotations

import pytest

from modelwright.data.dedup import native


@pytest.fixture(params=["compiled", "plain"])
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(native, "library", lambda: None)
    elif native.library() is None:
        pytest.skip("no compiler here")
    return request.param

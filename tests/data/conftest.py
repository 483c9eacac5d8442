"""The corpus that several tests of `prepare` read, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.pipeline.stories import work, write_source

from modelwright.base.artifact import Artifact


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows with exact, near and partial repetitions, some of them far apart. To be read only."""
    folder = tmp_path_factory.mktemp("source")
    write_source(folder)
    return folder


@pytest.fixture(scope="session")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The corpus of an undisturbed `work` on it, to compare with."""
    return work(tmp_path_factory.mktemp("whole") / "prepare", source)

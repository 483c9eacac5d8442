"""Room on the disk is taken before it is needed, whatever the file system can."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from modelwright.data.dedup.arrays import new_npy, new_raw


@pytest.mark.parametrize("able", [True, False])
def test_the_blocks_are_there_and_hold_zeros(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, able: bool
) -> None:
    def unable(*_: int) -> None:
        raise OSError(errno.EOPNOTSUPP, "not here")

    if not able:
        monkeypatch.setattr(os, "posix_fallocate", unable)
    one, other = new_npy(tmp_path / "a.npy", np.int64, 400_000), new_raw(tmp_path / "b", np.uint8, 3_000_000)
    for name, size in (("a.npy", 3_200_000), ("b", 3_000_000)):
        assert (tmp_path / name).stat().st_blocks * 512 >= size
    assert not one.any() and not other.any()
    one[7] = 9
    one.flush()
    read = np.load(tmp_path / "a.npy", allow_pickle=False)
    assert read.shape == (400_000,) and read.sum() == 9
    assert new_npy(tmp_path / "none.npy", np.int64, 0).shape == (0,)


def test_no_room_is_an_error_and_no_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        new_raw(tmp_path / "b", np.uint8, 3_000_000)

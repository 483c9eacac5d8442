"""A disk that is full while a model is trained: said in words, and gone on from once there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.life.tiny import command

from modelwright.cli import main

LIMITED = """
import resource, sys
from modelwright.cli import main

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), most))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("largest", [3_000, 400_000], ids=["metrics", "weights"])
def test_a_full_disk_in_training_is_said_and_gone_on_from(
    tmp_path: Path, largest: int, capsys: pytest.CaptureFixture[str]
) -> None:
    live = [*command(tmp_path, {"pretrain.tokens": 12_000}), "--until"]
    assert main([*live, "tokenize"]) == 0
    full = [sys.executable, "-c", LIMITED, str(largest), *live, "pretrain"]
    done = subprocess.run(
        full, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 1
    assert f"no file may be over {largest:,} bytes: ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr and "same command goes on" in done.stderr
    assert "failed: the disk is full" in (tmp_path / "pretrain" / "log.txt").read_text()
    assert main([*live, "pretrain"]) == 0
    assert (tmp_path / "pretrain" / "manifest.json").exists()
    assert "the disk is full" not in capsys.readouterr().err

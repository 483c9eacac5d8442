"""The same units, and the same corpus, on a real Ray that is started here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.data.execution.test_execution import ALL, UNIT
from tests.data.pipeline.stories import work

from modelwright.base.errors import DamagedFile
from modelwright.data.execution import Execution, Performer

pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.mark.filterwarnings("ignore")  # Ray's own, of which there are many
def test_ray_does_the_same(source: Path, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"2:1": "die once"}))
    said: list[str] = []
    settings = Execution(engine="ray", workers=2, stalled_seconds=4)
    with Performer(settings, tmp_path, 0, said.append) as perform:
        found = perform(UNIT, range(4))
        assert found == {n: {"unit": n, "kept": ALL, "blamed": []} for n in range(4)}
        (tmp_path / "plan.json").write_text(json.dumps({"4:0": "damaged"}))
        with pytest.raises(DamagedFile, match="page 3 is torn"):
            perform(UNIT, [4])
        (tmp_path / "plan.json").write_text(json.dumps({"5:1": "hang once", "6:3": "die", "7:2": "bug"}))
        found = perform(UNIT, [5, 6, 7])
        assert found[5]["kept"] == ALL and found[6] == {"unit": 6, "kept": [0, 1, 2, 4], "blamed": [3]}
        assert found[7] == {"unit": 7, "kept": [0, 1, 3, 4], "blamed": [2]}
        assert any("unit 5 has not got on for 4 s" in line for line in said)
        # On the Ray that runs. Every unit starts a process there: few of them.
        there = work(tmp_path / "there", source, unit_bytes=90_000, execution={"engine": "ray"})
    assert there.id == work(tmp_path / "here", source, unit_bytes=90_000).id

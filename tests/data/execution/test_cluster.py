"""The same units on a real Ray, started here."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.execution.test_execution import ALL, perform

from modelwright.base.errors import DamagedFile

pytest.importorskip("ray", reason="the extra 'ray' is not installed")


@pytest.mark.filterwarnings("ignore")  # Ray's own, of which there are many
def test_ray_does_the_same(tmp_path: Path) -> None:
    import ray

    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[3])}},
    )
    try:
        found, _, _ = perform(tmp_path / "a", {"2:1": "die once"}, engine="ray")
        assert found == {n: {"unit": n, "kept": ALL, "blamed": []} for n in range(4)}
        with pytest.raises(DamagedFile, match="page 3 is torn"):
            perform(tmp_path / "b", {"1:0": "damaged"}, engine="ray")
    finally:
        ray.shutdown()

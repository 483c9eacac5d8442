"""docs/extending.md as a stranger would follow it: each example is one new file, found and used."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modelwright import objectives
from modelwright.base.errors import ConfigError
from modelwright.base.files import sha256_text
from modelwright.base.schema import IGNORE, Batch, Document
from modelwright.data import filters
from modelwright.environments import tasks
from modelwright.environments.task import all_tasks
from modelwright.stages import align

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
EXAMPLES = dict(
    re.findall(
        r"^```python\n# ([\w/.]+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
)


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's file, lying in its package."""
    package, path = request.param
    (tmp_path / Path(path).name).write_text(EXAMPLES[path])
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    yield
    name = Path(path).stem
    monkeypatch.delattr(package, name, raising=False)
    sys.modules.pop(f"{package.__name__}.{name}", None)  # a later test may add another file of this name


@pytest.mark.parametrize("folder", [(filters, "data/filters/shouting.py")], indirect=True)
def test_a_data_filter_is_one_file(folder: None) -> None:
    name, step = filters.build({"name": "shouting", "max_share": 0.4})
    documents = [
        Document(text=text, id=sha256_text(text), source="x") for text in ("Quiet words.", "LOUD Words")
    ]
    dropped: list[str] = []
    kept = list(step(iter(documents), lambda document, reason: dropped.append(str(reason))))
    assert (name, [document.text for document in kept]) == ("shouting", ["Quiet words."])
    assert dropped == ["shouting: 0.5556, capitals at most 40%"]


@pytest.mark.parametrize("folder", [(tasks, "environments/tasks/spelling.py")], indirect=True)
def test_an_evaluation_task_is_one_file(folder: None) -> None:
    task = all_tasks()["spelling"]
    problems = task.problems(seed=3, limit=4)
    assert len(problems) == 4
    assert problems == task.problems(seed=3, limit=4)
    assert task.score(problems[0], f"It is {problems[0].target[0]}.").value == 1
    assert task.score(problems[0], "No idea.").value == 0


@pytest.mark.parametrize("folder", [(objectives, "objectives/hinge.py")], indirect=True)
def test_an_objective_is_one_file(folder: None) -> None:
    hinge = align.Config(objective={"name": "hinge", "beta": 0.5}).loss()
    batch = Batch(
        ids=torch.tensor([[1, 2], [1, 3]]),
        targets=torch.tensor([[2, IGNORE], [3, IGNORE]]),
        extra={"reference_logps": torch.log(torch.tensor([0.25, 0.25]))},
    )
    loss, metrics = hinge(Uniform(), batch)  # the policy is the reference: no margin yet
    assert hinge.count(batch) == 1
    assert loss.item() == pytest.approx(1.0)
    assert metrics["accuracy"].item() == 0


class Uniform:
    """An output that finds each of four tokens equally likely."""

    hidden = torch.zeros(2, 2, 3)
    head = torch.zeros(4, 3)
    words = auxiliary = None

    def logits(self) -> torch.Tensor:
        return self.hidden @ self.head.T


def test_an_unknown_objective_is_refused_when_the_recipe_is_read() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'preference'"):
        align.Config(objective={"name": "preferance"})
    with pytest.raises(ConfigError, match="beta: Input should be greater than 0"):
        align.Config(objective={"name": "preference", "beta": 0})

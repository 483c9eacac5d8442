"""The methods of `synthesize` by their kind: their settings, and how each is made ready."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Discriminator

from modelwright.data.synthesis.answers import Answers, AnswersConfig
from modelwright.data.synthesis.method import Method
from modelwright.data.synthesis.rationales import Rationales, RationalesConfig
from modelwright.data.synthesis.tasks import Task

MethodConfig = Annotated[AnswersConfig | RationalesConfig, Discriminator("kind")]


def method_of(config: MethodConfig, tasks: Sequence[Task], samples: int, seed: int) -> Method:
    """The method, at its beginning. `samples`: answers to each prompt."""
    if isinstance(config, RationalesConfig):
        return Rationales(config, tasks, samples)
    return Answers(config, tasks, samples)

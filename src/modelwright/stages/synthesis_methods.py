"""The methods of `synthesize` by their kind: their settings, and how each is made ready."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Annotated

from pydantic import Discriminator

from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.answers import Answers, AnswersConfig
from modelwright.data.synthesis.growth import GrowConfig, Growth
from modelwright.data.synthesis.method import Method
from modelwright.data.synthesis.personas import Personas, PersonasConfig
from modelwright.data.synthesis.rationales import RationalesConfig, rationale_rows
from modelwright.data.synthesis.rewriting import SAME_ANSWER, RewriteConfig, Rewriting
from modelwright.data.synthesis.tasks import Task

MethodConfig = Annotated[
    AnswersConfig | RationalesConfig | GrowConfig | RewriteConfig | PersonasConfig, Discriminator("kind")
]


def writes_after(config: MethodConfig) -> bool:
    """Whether the requests of the sources are shown, for others to be written after them. Those have hashes
    of their own, and so may be trained on: of what `finetune` holds out nothing must be shown. Where a
    request is answered as it is, the same hash holds its row out again; personas only keep away from
    requests."""
    return config.shows_requests


def keeps_targets(config: MethodConfig) -> bool:
    """Whether the right answer of a row holds for any request that is answered; not for new ones."""
    if isinstance(config, RewriteConfig):
        return not SAME_ANSWER.isdisjoint(config.ways)
    return isinstance(config, AnswersConfig | RationalesConfig)


def method_of(
    config: MethodConfig, tasks: Sequence[Task], samples: int, seed: int, index: Index | None = None
) -> Method:
    """The method, at its beginning. `samples`: answers to each prompt. `index`: evaluation items that no
    request may ask."""
    if isinstance(config, GrowConfig):
        return Growth(config, tasks, samples, seed, index)
    if isinstance(config, RewriteConfig):
        return Rewriting(config, tasks, samples, seed, index)
    if isinstance(config, PersonasConfig):
        return Personas(config, tasks, samples, seed, index)
    if isinstance(config, RationalesConfig):
        return Answers(tasks, samples, config.asked, partial(rationale_rows, config))
    return Answers(tasks, samples, config.system)

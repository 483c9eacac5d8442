"""What a search for a learning rate and a rank may try: a part of the settings of `finetune`."""

from __future__ import annotations

from pydantic import Field

from modelwright.base.config import Config


class SearchConfig(Config):
    """Which values are tried, on how much, for how long."""

    learning_rates: tuple[float, ...] = ()
    """Peak rates. Where none are given: a third of the recipe's rate, that, and three times that. Muon's rate
    for matrices moves by the same factor."""
    ranks: tuple[int, ...] = ()
    """Ranks of the adapter, tried at the best rate. Where none are given: a quarter of the recipe's, and four
    times that. A model that is trained in full has none."""
    slice: int = Field(default=500, gt=0)
    """Conversations of each source that a trial learns from, once."""
    minutes: float = Field(default=30.0, gt=0)
    """All trials together. What is not finished by then is not counted."""
    found: str = ""
    """The search that has chosen this recipe's rate and rank; written by the search."""

"""Next-token prediction: the objective of pre-training and of supervised fine-tuning.

The two differ only in their view of the data: fine-tuning marks the positions that carry no loss
with IGNORE.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from modelwright.base import config
from modelwright.base.schema import Batch
from modelwright.base.seams import Output
from modelwright.kernels.cross_entropy import regularised_cross_entropy


class Config(config.Config):
    """What is added to the likelihood."""

    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the square of the log of the softmax's denominator (arXiv 2204.02311: 1e-4); 0: none."""


def objective(config: Config) -> NextToken:
    """The objective."""
    return NextToken(config.z_loss)


class NextToken:
    """Negative log-likelihood in nats, summed over the supervised tokens; and the z-loss where it has a
    weight."""

    def __init__(self, z_loss: float = 0.0) -> None:
        self._z = z_loss

    def count(self, batch: Batch) -> int:
        """Supervised tokens."""
        return len(batch.supervised())

    def __call__(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(sum of -log p(target) and of what is added to it, the parts where there is more than one)."""
        loss, z_loss = self._likelihood(output, batch)
        parts = {"z_loss": z_loss} if self._z else {}
        if output.auxiliary is not None:
            parts["auxiliary"] = output.auxiliary.detach()
        if not parts:
            return loss, {}
        parts["next_token"] = loss.detach() - z_loss
        return loss if output.auxiliary is None else loss + output.auxiliary, parts

    def _likelihood(self, output: Output, batch: Batch) -> tuple[Tensor, Tensor]:
        hidden, targets, places = output.hidden.flatten(0, 1), batch.targets.flatten(), batch.supervised()
        if len(places) < len(targets):  # in pre-training there is nothing to leave out
            hidden, targets = hidden[places], targets[places]
        return regularised_cross_entropy(hidden, output.head, targets, self._z, words=output.words)

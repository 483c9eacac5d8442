"""Next-token prediction: the objective of pre-training and of supervised fine-tuning.

The two differ only in their view of the data: fine-tuning marks the positions that carry no loss
with IGNORE.
"""

from __future__ import annotations

from torch import Tensor

from modelwright.base import config
from modelwright.base.schema import IGNORE, Batch
from modelwright.base.seams import Output
from modelwright.kernels.cross_entropy import linear_cross_entropy


class Config(config.Config):
    """Nothing to set."""


def objective(config: Config) -> NextToken:
    """The objective."""
    return NextToken()


class NextToken:
    """Negative log-likelihood in nats, summed over the supervised tokens."""

    def count(self, batch: Batch) -> int:
        """Supervised tokens."""
        return int((batch.targets != IGNORE).sum())

    def __call__(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(sum of -log p(target), the share of it that the model's own auxiliary loss is, if it has one)."""
        loss = self._likelihood(output, batch)
        if output.auxiliary is None:
            return loss, {}
        return loss + output.auxiliary, {"auxiliary": output.auxiliary.detach(), "next_token": loss.detach()}

    def _likelihood(self, output: Output, batch: Batch) -> Tensor:
        keep = batch.targets.flatten() != IGNORE
        hidden = output.hidden.flatten(0, 1)
        if bool(keep.all()):  # the pre-training case: no rows to gather
            return linear_cross_entropy(hidden, output.head, batch.targets.flatten())
        targets = batch.targets.flatten()[keep]
        return linear_cross_entropy(hidden[keep], output.head, targets)

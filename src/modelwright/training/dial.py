"""Rates that follow from the dial: what a width and a batch imply where a recipe says nothing.

Measured at the anchor (width 128, 4 layers, novels; docs/pretrain.md has the table): the best rate of AdamW
beside Muon. How it goes on with width is taken from the literature:

- beside Muon, the rate of AdamW (embedding, head, norms) falls with 1 / sqrt(width), as in nanochat;
- Muon's rate is the same at every width, because its updates have a spectral norm that each layer's change
  of output depends on alone (arXiv 2310.17813);
- AdamW for all matrices: 1 / width (muP, arXiv 2203.03466).

Neither the batch nor a weight decay follows: what was measured here did not decide on them.
"""

from __future__ import annotations

from modelwright.training.optimizer import MATRIX_RATE, RATE, RMS_RATE, OptimizerConfig

ANCHOR_WIDTH, ANCHOR_RATE = 128, 0.012
ADAMW_WIDTH = 256
"""Where AdamW's rate for all matrices is 0.003, as before: not measured."""


def settle(config: OptimizerConfig, width: int) -> OptimizerConfig:
    """The settings with a number for every rate that was left out."""
    if config.kind == "adamw":
        rate = RATE * ADAMW_WIDTH / width
    else:
        rate = ANCHOR_RATE * (ANCHOR_WIDTH / width) ** 0.5
    matrix = MATRIX_RATE if config.scale == "spectral" else RMS_RATE * (ADAMW_WIDTH / width) ** 0.5
    return config.model_copy(
        update={
            "learning_rate": config.learning_rate or rate,
            "matrix_learning_rate": config.matrix_learning_rate or matrix,
        }
    )


def describe(asked: OptimizerConfig, settled: OptimizerConfig, width: int) -> str:
    """Which rates there are, and which of them were derived: for the log."""

    def words(name: str, given: float | None, value: float) -> str:
        return f"{name} {value:.4g} ({'as set' if given else f'derived from width {width}'})"

    parts = [words("learning rate", asked.learning_rate, settled.rate)]
    if settled.kind == "muon":
        parts.append(words("of matrices", asked.matrix_learning_rate, settled.matrix_rate))
    return ", ".join(parts)

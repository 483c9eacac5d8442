"""What follows from the dial where a recipe says nothing: rates by width, and the variant of Muon.

Measured at the anchor (width 128, 4 layers, novels; docs/pretrain.md has the table): the best rate of AdamW
beside Muon. How it goes on with width is taken from the literature:

- beside Muon, the rate of AdamW (embedding, head, norms) falls with 1 / sqrt(width), as in nanochat;
- Muon's rate is the same at every width, because its updates have a spectral norm that each layer's change
  of output depends on alone (arXiv 2310.17813);
- AdamW for all matrices: 1 / width (muP, arXiv 2203.03466).

The matrices' updates are NorMuon's, their momentum is 0.9 and their decay 0.1: of the variants that
benchmarks/optimizers.py measures, these helped at both sizes, on every seed. The batch does not follow: at
the lengths measured here small ones win, which says nothing of long trainings.
"""

from __future__ import annotations

from modelwright.training.optimizer import MATRIX_RATE, RATE, RMS_RATE, OptimizerConfig

ANCHOR_WIDTH, ANCHOR_RATE = 128, 0.012
ADAMW_WIDTH = 256
"""Where AdamW's rate for all matrices is 0.003, as before: not measured."""
MUON_DECAY, MUON_MOMENTUM = 0.1, 0.9


def settle(config: OptimizerConfig, width: int) -> OptimizerConfig:
    """The settings with a value for everything that was left out and follows from the dial."""
    if config.kind == "adamw":
        rate = RATE * ADAMW_WIDTH / width
    else:
        rate = ANCHOR_RATE * (ANCHOR_WIDTH / width) ** 0.5
    muon, decay = config.kind == "muon", MUON_DECAY if config.kind == "muon" else 0.0
    matrix = MATRIX_RATE if config.scale == "spectral" else RMS_RATE * (ADAMW_WIDTH / width) ** 0.5
    return config.model_copy(
        update={
            "learning_rate": config.learning_rate or rate,
            "matrix_learning_rate": config.matrix_learning_rate or matrix,
            "momentum": MUON_MOMENTUM if config.momentum is None else config.momentum,
            "even_neurons": muon if config.even_neurons is None else config.even_neurons,
            "weight_decay": decay if config.weight_decay is None else config.weight_decay,
        }
    )


def describe(asked: OptimizerConfig, settled: OptimizerConfig, width: int) -> str:
    """Which rates and which decay there are, and which of them were derived: for the log."""

    def words(name: str, given: float | None, value: float) -> str:
        return f"{name} {value:.4g} ({'as set' if given else f'derived from width {width}'})"

    parts = [words("learning rate", asked.learning_rate, settled.rate)]
    if settled.kind == "muon":
        parts.append(words("of matrices", asked.matrix_learning_rate, settled.matrix_rate))
        rule = "NorMuon" if settled.even_neurons else "Muon"
        parts.append(f"{rule} with momentum {settled.matrix_momentum:g}")
    parts.append(f"weight decay {settled.decay:g}")
    return ", ".join(parts)

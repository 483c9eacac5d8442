"""Optimizers: AdamW (arXiv 1711.05101), and Muon for the matrices (training/muon.py), side by side in one
object with one state.

Muon is for the matrices inside the blocks, stacks of experts among them; embeddings, head, norms and biases
stay with AdamW.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from modelwright.base.config import Config
from modelwright.training.layout import Layout
from modelwright.training.muon import Iteration, even_out, neuron_axis, orthogonalize, scale_of

RATE, MATRIX_RATE = 3e-3, 0.02
"""Rates where nobody says anything: those at which training/dial.py starts."""
MOMENTUM = 0.95
"""Muon's, where nobody says anything."""
RMS_RATE = 6e-3
"""The matrices' rate where nobody says anything and their updates are scaled as AdamW's are."""


class OptimizerConfig(Config):
    """Which rule, and how fast."""

    kind: Literal["adamw", "muon"] = "muon"
    """"muon" uses Muon for matrices inside blocks and AdamW for the rest; "adamw" uses AdamW for all."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of AdamW. None: derived from the dial in pretrain, 0.003 elsewhere."""
    matrix_learning_rate: float | None = Field(default=None, gt=0)
    """Peak rate of Muon: the size of an update's singular values, times what `scale` says. None: as above,
    0.02 elsewhere."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float | None = Field(default=None, ge=0, lt=1)
    """Muon's momentum (Nesterov). None: 0.9 in pretrain, 0.95 elsewhere."""
    iteration: Iteration = "jordan"
    """How Muon orthogonalises: Jordan's quintic in every step, or the best one for each (Polar Express)."""
    iterations: int = Field(default=5, ge=1)
    """Its steps."""
    scale: Literal["spectral", "rms"] = "spectral"
    """Size of Muon's updates: sqrt(max(1, rows / columns)), or as large as AdamW's (see training/muon.py)."""
    even_neurons: bool | None = None
    """NorMuon (arXiv 2510.05491): each neuron's part of an update is divided by its running size. None: on
    in pretrain, off elsewhere."""
    neuron_beta: float = Field(default=0.95, ge=0, lt=1)
    """How slowly that size is forgotten."""
    weight_decay: float | None = Field(default=None, ge=0)
    """Decoupled: per step, matrices shrink by rate x decay. Norms, biases and embeddings do not decay. None:
    0.1 beside Muon in pretrain, 0 elsewhere."""
    cautious: bool = False
    """Muon's matrices decay only where the update pulls the same way (arXiv 2510.12402)."""
    decay_falls: bool = False
    """The decay itself is multiplied by the schedule's factor too, as the rate is."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """The gradient's global norm is cut to this; None leaves it."""

    @property
    def rate(self) -> float:
        """AdamW's peak rate."""
        return self.learning_rate or RATE

    @property
    def matrix_rate(self) -> float:
        """Muon's peak rate."""
        return self.matrix_learning_rate or (MATRIX_RATE if self.scale == "spectral" else RMS_RATE)

    @property
    def matrix_momentum(self) -> float:
        """Muon's momentum."""
        return MOMENTUM if self.momentum is None else self.momentum

    @property
    def decay(self) -> float:
        """The matrices' decay, as a share of the rate."""
        return self.weight_decay or 0.0


class Optimizer:
    """AdamW and Muon over named parameters. State is a flat dict of tensors, ready for safetensors.

    Where several processes hold the parameters together, each has its pieces in here, and `layout` knows the
    wholes: the rules that treat every number alone need nothing else.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        config: OptimizerConfig,
        matmul_dtype: torch.dtype = torch.float32,
        layout: Layout | None = None,
    ) -> None:
        self.config, self._matmul_dtype, self._layout = config, matmul_dtype, layout or Layout()
        named = [(name, p) for name, p in parameters if p.requires_grad]
        self._all = dict(named)
        inside = [(name, p) for name, p in named if p.ndim >= 2 and ".layers." in name]
        by_muon = inside if config.kind == "muon" else []
        self._momentum = {name: torch.zeros_like(p) for name, p in by_muon}
        self._second: dict[str, Tensor] = {}
        """Mean squares of whole matrices' neurons, the same on every process."""
        self._by_shape: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = defaultdict(list)
        for name, parameter in by_muon:
            shape = self._layout.shape(name, parameter)
            self._by_shape[shape].append((name, parameter))
            if config.even_neurons:
                self._second[name] = parameter.new_zeros((*shape[:-2], max(shape[-2:])))
        decaying = {name: p for name, p in inside if name not in self._momentum}
        others = {name: p for name, p in named if name not in self._momentum and name not in decaying}
        self._adamw_names = [*decaying, *others]  # the order in which torch numbers them
        self._adamw = self._make_adamw(list(decaying.values()), list(others.values()))

    def _make_adamw(self, decaying: list[nn.Parameter], others: list[nn.Parameter]) -> torch.optim.AdamW:
        groups = ((decaying, self.config.decay), (others, 0.0))  # both may be empty: adapters under Muon
        return torch.optim.AdamW(
            [{"params": group, "weight_decay": decay, "decays": decay > 0} for group, decay in groups],
            lr=self.config.rate,
            betas=self.config.betas,
            eps=self.config.eps,
            fused=True,
        )

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._all.values():
            parameter.grad = None

    @torch.no_grad()
    def norm(self) -> Tensor:
        """Euclidean norm of all gradients together, not yet read."""
        return self._layout.norm({name: p.grad for name, p in self._all.items() if p.grad is not None})

    @torch.no_grad()
    def clip(self, norm: float) -> None:
        """Cut the gradients, which have this norm, to the one that the settings allow. Most are within it and
        are not touched: a pass over all of them was half a per cent of a step of 4M parameters on a CPU. By
        a norm that is no number every gradient would become one: it is left to see which one was."""
        limit = self.config.clip_norm
        if limit is not None and limit < norm < math.inf:
            gradients = [p.grad for p in self._all.values() if p.grad is not None]
            torch._foreach_mul_(gradients, limit / (norm + 1e-6))  # pyright: ignore[reportPrivateImportUsage]

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at `factor` times the peak rates."""
        decay = self.config.decay * (factor if self.config.decay_falls else 1.0)
        for group in self._adamw.param_groups:
            group["lr"] = factor * self.config.rate
            group["weight_decay"] = decay if group["decays"] else 0.0
        self._adamw.step()
        for shape, group in self._by_shape.items():
            self._step_muon(group, factor * self.config.matrix_rate, decay, shape)

    def _step_muon(
        self, group: list[tuple[str, nn.Parameter]], rate: float, decay: float, shape: tuple[int, ...]
    ) -> None:
        """Matrices of one shape, orthogonalised together."""
        names, parameters = [name for name, _ in group], [parameter for _, parameter in group]
        updates = self._layout.on_whole(names, self._ahead(group), self._orthogonalize)
        if self.config.even_neurons:
            updates = self._even_out(names, updates, neuron_axis(shape[-2], shape[-1]))
        scale = scale_of(shape[-2], shape[-1], self.config.scale)
        for parameter, update in zip(parameters, updates, strict=True):
            wide = update.to(parameter.dtype)
            if decay and self.config.cautious:
                parameter.sub_(parameter * (wide * parameter > 0), alpha=rate * decay)
            elif decay:
                parameter.mul_(1 - rate * decay)
            parameter.add_(wide, alpha=-rate * scale)

    def _ahead(self, group: list[tuple[str, nn.Parameter]]) -> list[Tensor]:
        """The gradients, taken into the momentum and seen one step ahead (Nesterov), ready for products."""
        updates, beta = list[Tensor](), self.config.matrix_momentum
        for name, parameter in group:
            assert parameter.grad is not None, f"{name} took no part in the loss"
            momentum = self._momentum[name].lerp_(parameter.grad, 1 - beta)
            updates.append(parameter.grad.lerp(momentum, beta).to(self._matmul_dtype))
        return updates

    def _even_out(self, names: list[str], updates: list[Tensor], axis: int) -> list[Tensor]:
        """Pieces of orthogonal updates, each neuron's part divided by its running size."""
        evened: list[Tensor] = []
        squares = self._layout.mean_squares(names, updates, axis)
        for name, update, each in zip(names, updates, squares, strict=True):
            factors = even_out(each, self._second[name], self.config.neuron_beta)
            evened.append(update.float() * self._layout.beside(name, factors, axis).unsqueeze(axis))
        return evened

    def _orthogonalize(self, stack: Tensor) -> Tensor:
        return orthogonalize(stack, self.config.iterations, self.config.iteration)

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors; empty for AdamW's part before the first step."""
        flat = {f"momentum/{name}": tensor for name, tensor in self._momentum.items()}
        flat |= {f"second/{name}": tensor for name, tensor in self._second.items()}
        state = self._adamw.state_dict()["state"]
        for number, name in enumerate(self._adamw_names):
            for key, tensor in state.get(number, {}).items():
                flat[f"{key}/{name}"] = tensor
        return flat

    @torch.no_grad()
    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take over what `state` returned; a state of other parameters is an error."""
        names = {key.partition("/")[2] for key in flat}
        adamw = {*self._adamw_names} & names  # none before AdamW's first step
        if names - adamw != self._momentum.keys() or adamw not in (set(), {*self._adamw_names}):
            raise ValueError(f"the optimizer state is of other parameters: {sorted(names)[:4]}...")
        if {key for key in flat if key.startswith("second/")} != {f"second/{name}" for name in self._second}:
            raise ValueError(
                f"the optimizer state is of another variant of Muon than even_neurons={bool(self._second)}: "
                "set even_neurons as it was, or start anew"
            )
        for name, tensor in self._momentum.items():
            tensor.copy_(flat[f"momentum/{name}"])
        for name, tensor in self._second.items():
            tensor.copy_(flat[f"second/{name}"])
        state = self._adamw.state_dict()
        state["state"] = {
            number: {key: flat[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for number, name in enumerate(self._adamw_names)
            if adamw
        }
        self._adamw.load_state_dict(state)

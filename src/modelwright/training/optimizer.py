"""Optimizers: AdamW (arXiv 1711.05101), and Muon for the matrices (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/), side by side in one object with one state.

Muon replaces a matrix's momentum by the nearest (semi-)orthogonal matrix, found by a few
Newton-Schulz steps, so that every direction is learned at the same speed. It is for the matrices
inside the blocks; embeddings, head, norms and biases stay with AdamW.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from modelwright.base.config import Config
from modelwright.training.layout import Layout

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic step, chosen by Jordan for slope at zero, not for convergence to 1."""


class OptimizerConfig(Config):
    """Which rule, and how fast."""

    kind: Literal["adamw", "muon"] = "muon"
    """"muon" uses Muon for matrices inside blocks and AdamW for the rest; "adamw" uses AdamW for all."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Peak rate of AdamW."""
    matrix_learning_rate: float = Field(default=0.02, gt=0)
    """Peak rate of Muon: the size of an update's singular values, per sqrt(rows / columns)."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.95
    """Muon's momentum (Nesterov)."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Decoupled: per step, matrices shrink by rate x decay. Norms, biases and embeddings do not decay."""
    clip_norm: float | None = Field(default=1.0, gt=0)
    """The gradient's global norm is cut to this; None leaves it."""


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal factor of each (M, N) matrix in a (K, M, N) stack, roughly: singular values end up
    between about 0.7 and 1.2. Runs in the given dtype; bf16 is enough."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b gram + c gram^2
        x = torch.baddbmm(x, polynomial, x, beta=a)  # a x + (b gram + c gram^2) x
    return x.mT if tall else x


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
        inside = [(name, p) for name, p in named if p.ndim == 2 and ".layers." in name]
        by_muon = inside if config.kind == "muon" else []
        self._momentum = {name: torch.zeros_like(p) for name, p in by_muon}
        self._by_shape: dict[tuple[int, ...], list[tuple[str, nn.Parameter]]] = defaultdict(list)
        for name, parameter in by_muon:
            self._by_shape[self._layout.shape(name, parameter)].append((name, parameter))
        decaying = {name: p for name, p in inside if name not in self._momentum}
        others = {name: p for name, p in named if name not in self._momentum and name not in decaying}
        self._adamw_names = [*decaying, *others]  # the order in which torch numbers them
        self._adamw = self._make_adamw(list(decaying.values()), list(others.values()))

    def _make_adamw(self, decaying: list[nn.Parameter], others: list[nn.Parameter]) -> torch.optim.AdamW:
        groups = ((decaying, self.config.weight_decay), (others, 0.0))
        return torch.optim.AdamW(
            [{"params": group, "weight_decay": decay} for group, decay in groups if group],
            lr=self.config.learning_rate,
            betas=self.config.betas,
            eps=self.config.eps,
            fused=True,
        )

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self._all.values():
            parameter.grad = None

    @torch.no_grad()
    def clip(self) -> float:
        """Cut the gradients to the norm that the settings allow; returns the norm they had."""
        gradients = {name: p.grad for name, p in self._all.items() if p.grad is not None}
        norm = self._layout.norm(gradients)
        if self.config.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._all.values(), self.config.clip_norm, norm)
        return float(norm)

    @torch.no_grad()
    def step(self, factor: float) -> None:
        """One update at `factor` times the peak rates."""
        for group in self._adamw.param_groups:
            group["lr"] = factor * self.config.learning_rate
        self._adamw.step()
        for (rows, columns), group in self._by_shape.items():
            scale = max(1.0, rows / columns) ** 0.5
            self._step_muon(group, factor * self.config.matrix_learning_rate, scale)

    def _step_muon(self, group: list[tuple[str, nn.Parameter]], rate: float, scale: float) -> None:
        """Matrices of one shape, orthogonalised together."""
        ahead: list[Tensor] = []
        for name, parameter in group:
            assert parameter.grad is not None, f"{name} took no part in the loss"
            momentum = self._momentum[name].lerp_(parameter.grad, 1 - self.config.momentum)
            ahead.append(parameter.grad.lerp(momentum, self.config.momentum))  # Nesterov
        cast = [update.to(self._matmul_dtype) for update in ahead]
        updates = self._layout.on_whole([name for name, _ in group], cast, orthogonalize)
        for (_, parameter), update in zip(group, updates, strict=True):
            if self.config.weight_decay:
                parameter.mul_(1 - rate * self.config.weight_decay)
            parameter.add_(update.to(parameter.dtype), alpha=-rate * scale)

    def state(self) -> dict[str, Tensor]:
        """All state as named tensors; empty for AdamW's part before the first step."""
        flat = {f"momentum/{name}": tensor for name, tensor in self._momentum.items()}
        state = self._adamw.state_dict()["state"]
        for number, name in enumerate(self._adamw_names):
            for key, tensor in state.get(number, {}).items():
                flat[f"{key}/{name}"] = tensor
        return flat

    @torch.no_grad()
    def load_state(self, flat: dict[str, Tensor]) -> None:
        """Take over what `state` returned; a state of other parameters is an error."""
        names = {key.partition("/")[2] for key in flat}
        if names != {*self._adamw_names, *self._momentum}:
            raise ValueError(f"the optimizer state is of other parameters: {sorted(names)[:4]}...")
        for name, tensor in self._momentum.items():
            tensor.copy_(flat[f"momentum/{name}"])
        state = self._adamw.state_dict()
        state["state"] = {
            number: {key: flat[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            for number, name in enumerate(self._adamw_names)
        }
        self._adamw.load_state_dict(state)

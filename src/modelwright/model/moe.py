"""Mixture of experts: a router sends each token to k of E small feed-forward networks (arXiv 1701.06538).

As in Qwen3Moe: the router's probabilities are a softmax over all experts in fp32, the k largest are taken
and, where `norm_topk_prob` says so, divided by their sum. No token is dropped and no expert has a capacity.

Shapes: N tokens, E experts, k experts per token, D width, F width inside an expert, M = N x k rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from modelwright.kernels.grouped import grouped_linear
from modelwright.kernels.swiglu import swiglu
from modelwright.model.balance import Routing
from modelwright.model.config import ModelConfig


class Router(nn.Module):
    """Decides which experts read a token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.per_token, self.normalise = config.num_experts_per_tok, config.norm_topk_prob
        self.weight = nn.Parameter(torch.empty(config.num_experts, config.hidden_size))

    def forward(self, x: Tensor, favour: Tensor | None) -> tuple[Routing, Tensor]:
        """(N, D) -> (what was said, (N, k) fp32 weights of the chosen experts). `favour` (E,) is added to the
        logits for the choice; the weights do not know of it."""
        logits = F.linear(x.float(), self.weight.float())
        wanted = logits.detach() if favour is None else logits.detach() + favour
        chosen = wanted.topk(self.per_token, dim=-1).indices
        weights = logits.softmax(-1).gather(1, chosen)
        if self.normalise:
            weights = weights / weights.sum(-1, keepdim=True)
        return Routing(logits, chosen), weights


class StackedLinear(nn.Module):
    """E linear layers without bias in one tensor, so that one call multiplies for all of them."""

    def __init__(self, experts: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts, out_features, in_features))

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, in) rows sorted by expert, `sizes` (E,) of each -> (M, out)."""
        return grouped_linear(rows, self.weight, sizes)


class Experts(nn.Module):
    """E gated feed-forward networks: down(silu(gate(x)) * up(x))."""

    def __init__(self, experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = StackedLinear(experts, hidden_size, intermediate_size)
        self.up_proj = StackedLinear(experts, hidden_size, intermediate_size)
        self.down_proj = StackedLinear(experts, intermediate_size, hidden_size)

    def forward(self, rows: Tensor, sizes: Tensor) -> Tensor:
        """(M, D) rows sorted by expert -> (M, D)."""
        return self.down_proj(swiglu(self.gate_proj(rows, sizes), self.up_proj(rows, sizes)), sizes)


class MixtureOfExperts(nn.Module):
    """The feed-forward part of a block as a mixture."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Router(config)
        self.experts = Experts(config.num_experts, config.hidden_size, config.moe_intermediate_size)
        self.num_experts = config.num_experts

    def forward(self, x: Tensor, favour: Tensor | None) -> tuple[Tensor, Routing]:
        """(B, T, D) -> ((B, T, D), what the router said)."""
        flat = x.reshape(-1, x.shape[-1])
        routing, weights = self.gate(flat, favour)
        place, sizes = sort_by_expert(routing.chosen, self.num_experts)
        mixed = self.experts(_Spread.apply(flat, place), sizes)
        mixed = _Gather.apply(mixed, place) * weights.to(x.dtype).unsqueeze(-1)
        return mixed.sum(1).view_as(x), routing


def sort_by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor]:
    """(N, k) choices -> ((N, k) place of each among all M choices sorted by expert, (E,) choices of each).
    Equal experts keep the order of their tokens, so that results do not depend on how sorting works."""
    order = chosen.flatten().argsort(stable=True)
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    sizes = torch.zeros(experts, dtype=torch.int64, device=chosen.device)
    sizes = sizes.scatter_add(0, chosen.flatten(), torch.ones_like(order))
    return place.view_as(chosen), sizes


class _Spread(torch.autograd.Function):
    """Each token's row to its k places. The gradient gathers from them: reading is exact and fast where
    adding up in place, torch's own gradient, depends on the order of threads on a GPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        rows = x.new_empty(place.numel(), x.shape[1])
        for column in place.unbind(1):
            rows[column] = x
        return rows

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        return upstream[0][place].sum(1), None


class _Gather(torch.autograd.Function):
    """(M, D) rows -> (N, k, D), each token's rows side by side. The gradient puts each back in its place."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return rows[place]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        (place,) = ctx.saved_tensors
        rows = upstream[0].new_empty(place.numel(), upstream[0].shape[-1])
        rows[place.flatten()] = upstream[0].flatten(0, 1)
        return rows, None


def reference(module: MixtureOfExperts, x: Tensor, favour: Tensor | None = None) -> Tensor:
    """The mixture plainly: every expert reads every token, and what was not chosen is weighted by zero."""
    flat = x.reshape(-1, x.shape[-1])
    routing, weights = module.gate(flat, favour)
    mixed = torch.zeros_like(flat)
    stacks = (module.experts.gate_proj, module.experts.up_proj, module.experts.down_proj)
    for expert, (gate, up, down) in enumerate(zip(*(s.weight.to(x.dtype) for s in stacks), strict=True)):
        weight = (weights * (routing.chosen == expert)).sum(-1, keepdim=True).to(x.dtype)
        mixed = mixed + weight * F.linear(F.silu(F.linear(flat, gate)) * F.linear(flat, up), down)
    return mixed.view_as(x)

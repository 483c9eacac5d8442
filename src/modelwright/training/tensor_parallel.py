"""Tensor parallelism by a plan that the model owns (Megatron-LM, arXiv 1909.08053), with what lies between
the products dealt out along the sequence (arXiv 2205.05198).

Between products a process has T / ways of the T tokens of every row; where that does not come out even, the
last processes have fewer and fill up with zeros. In front of the products tokens are gathered, and the sums
behind them dealt out again; backwards it is the other way round. The two exchanges send together what one sum
over whole sequences would. What the network returns is gathered too, so that objectives see whole sequences.
Each process has the gradient of all of it, and goes on with that of its own tokens.

The head stays cut by words. An objective makes the logits of a process's own words and exchanges two numbers
a token (`base.seams.Words`). Where nothing is learned, as in validation, the head is handed out whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from modelwright.training.layout import in_order


def cut(module: nn.Module, plan: Mapping[str, str], mesh: DeviceMesh) -> dict[str, int]:
    """Apply a plan, module name -> how it is cut (model/sharding.py), over the one side of `mesh`; parameter
    name -> the axis along which it is cut. What is not named there is whole on each process, and its
    gradients are of this process's part alone."""
    sequences = _Sequences(mesh)
    for name, how in plan.items():
        sequences.cut(module.get_submodule(name), how)
    return {
        name: placement.dim
        for name, parameter in module.named_parameters()
        if isinstance(parameter, DTensor) and isinstance(placement := parameter.placements[0], Shard)
    }


class _Sequences:
    """Deals out tokens and gathers them, for all modules of one network."""

    def __init__(self, mesh: DeviceMesh) -> None:
        self.mesh = mesh
        self.length = 0
        """T of the ids that the embedding has read last: those that are computed on."""

    def cut(self, part: nn.Module, how: str) -> None:
        """Cut a module's weight as the plan says, and let it read and return what that means."""
        if how == "columns":
            parallelize_module(part, self.mesh, ColwiseParallel())
        elif how == "rows":
            style = RowwiseParallel(output_layouts=Partial(), use_local_output=False)
            parallelize_module(part, self.mesh, style)
            part.register_forward_hook(self._sums)
        elif how == "words":
            assert isinstance(part, nn.Embedding)
            by_words = distribute_tensor(part.weight, self.mesh, [Shard(0)])
            part.weight = nn.Parameter(by_words, part.weight.requires_grad)
            part.forward = partial(self._look_up, part)  # pyright: ignore[reportAttributeAccessIssue]
        elif how == "whole_input":
            part.register_forward_pre_hook(self._whole_input)
        else:
            part.register_forward_hook(self._whole_output)

    def _look_up(self, part: nn.Embedding, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, t, D) of own tokens. Each process looks up the words that it has."""
        self.length = ids.shape[1]
        weight = part.weight
        assert isinstance(weight, DTensor)
        places, own = ids - WordsOf(self.mesh, weight.shape).first, weight.to_local()
        here = (places >= 0) & (places < len(own))
        found = F.embedding(places.where(here, 0), own)
        summed = DTensor.from_local(found.where(here.unsqueeze(-1), 0.0), self.mesh, [Partial()])
        return self._dealt_out(summed)

    def _sums(self, module: nn.Module, inputs: Any, output: DTensor) -> Tensor:
        return self._dealt_out(output)

    def _dealt_out(self, summed: DTensor) -> Tensor:
        """Parts of sums, (B, T, D) -> (B, t, D), as many tokens on each process."""
        own = summed.redistribute(placements=[Shard(1)]).to_local()
        missing = -(-self.length // self.mesh.size()) - own.shape[1]
        return F.pad(own, (0, 0, 0, missing)) if missing else own

    def _whole_input(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return self._gathered(inputs[0]), *inputs[1:]

    def _whole_output(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """(B, t, D) and tensors (B t, ...) of the same tokens -> (B, T, D) and (B T, ...)."""
        hidden, others = output

        def whole(tensor: Tensor) -> Tensor:
            by_row = tensor.unflatten(0, (len(hidden), -1))
            return _Same.apply(self._gathered(by_row).to_local().flatten(0, 1))  # type: ignore[no-any-return]

        return _Same.apply(self._gathered(hidden).to_local()), tree_map_only(Tensor, whole, others)

    def _gathered(self, own: Tensor) -> DTensor:
        """(B, t, ...) -> (B, T, ...)."""
        whole = DTensor.from_local(own, self.mesh, [Shard(1)]).redistribute(placements=[Replicate()])
        return whole if whole.shape[1] == self.length else whole[:, : self.length]  # type: ignore[return-value]


def add_up_gradients(parameters: Mapping[str, nn.Parameter], group: dist.ProcessGroup) -> None:
    """Complete the gradients of parameters that each process has used on its own part. Small ones travel
    together."""
    found = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
    vectors = [gradient for gradient in found if gradient.ndim == 1]
    for gradient in (each for each in found if each.ndim > 1):
        dist.all_reduce(gradient, group=group)
    if vectors:
        together = torch.cat(vectors)
        dist.all_reduce(together, group=group)
        torch._foreach_copy_(vectors, list(together.split([len(each) for each in vectors])))  # pyright: ignore[reportPrivateImportUsage]


@dataclasses.dataclass(frozen=True, slots=True)
class WordsOf:
    """`base.seams.Words` of a head that is dealt out by rows."""

    mesh: DeviceMesh
    shape: torch.Size
    """(V, D)."""

    @property
    def first(self) -> int:
        return self.mesh.get_local_rank() * self.most

    @property
    def most(self) -> int:
        return -(-self.shape[0] // self.mesh.size())

    def gathered(self, tensor: Tensor) -> Tensor:
        return in_order(tensor, self.mesh.get_group())

    def add_up(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor, group=self.mesh.get_group())
        return tensor

    def whole(self, head: Tensor) -> Tensor:
        stride = (self.shape[1], 1)
        parts = DTensor.from_local(head, self.mesh, [Shard(0)], shape=self.shape, stride=stride)
        return parts.full_tensor()


class _Same(torch.autograd.Function):
    """The same numbers under another name in the graph: neither a leaf nor a view."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0]


def hand_out_head(module: nn.Module, inputs: Any, output: Any) -> Any:
    """A forward hook: the head as an objective uses it, after the forward pass, as a plain tensor."""
    head = output.head
    if not isinstance(head, DTensor):
        return dataclasses.replace(output, head=_Same.apply(head))
    if not torch.is_grad_enabled():
        return dataclasses.replace(output, head=head.full_tensor())
    words = WordsOf(head.device_mesh, head.shape)
    return dataclasses.replace(output, head=_Same.apply(head.to_local()), words=words)

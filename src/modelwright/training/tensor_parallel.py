"""Tensor parallelism by a plan that the model owns (Megatron-LM, arXiv 1909.08053), with what lies between
the products dealt out along the sequence (arXiv 2205.05198).

Between products a process has T / ways of the T tokens of every row; where that does not come out even, the
last processes have fewer and fill up with zeros. In front of the products tokens are gathered, and the sums
behind them dealt out again; backwards it is the other way round. The two exchanges send together what one sum
over whole sequences would. What the network returns is gathered too, so that objectives see whole sequences.
Each process has the gradient of all of it, and goes on with that of its own tokens.

What products have read whole is not kept whole for the backward pass: each process keeps its own tokens, and
they are gathered again. Where blocks are computed again anyway, that has gathered them (recompute.py).

The head stays cut by words. An objective makes the logits of a process's own words and exchanges two numbers
a token (`base.seams.Words`). Where nothing is learned, as in validation, the head is handed out whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import RowwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from modelwright.training.layout import in_order


def cut(
    module: nn.Module, plan: Mapping[str, str], mesh: DeviceMesh, *, gather_again: bool
) -> dict[str, int]:
    """Apply a plan, module name -> how it is cut (model/sharding.py), over the one side of `mesh`; parameter
    name -> the axis along which it is cut. What is not named there is whole on each process, and its
    gradients are of this process's part alone. `gather_again`: whole inputs of products are not kept for the
    backward pass."""
    sequences = _Sequences(mesh, gather_again)
    for name, how in plan.items():
        sequences.cut(module.get_submodule(name), how)
    return {
        name: placement.dim
        for name, parameter in module.named_parameters()
        if isinstance(parameter, DTensor) and isinstance(placement := parameter.placements[0], Shard)
    }


class _Sequences:
    """Deals out tokens and gathers them, for all modules of one network."""

    def __init__(self, mesh: DeviceMesh, gather_again: bool) -> None:
        self.mesh, self.gather_again = mesh, gather_again
        self.length = 0
        """T of the ids that the embedding has read last: those that are computed on."""
        self.read: _Read | None = None
        """What products read that are computed now, where it is gathered again for the backward pass."""

    def cut(self, part: nn.Module, how: str) -> None:
        """Cut a module's weight as the plan says, and let it read and return what that means."""
        if how == "columns":
            assert isinstance(part, nn.Linear)
            for name, parameter in list(part.named_parameters(recurse=False)):
                part.register_parameter(name, self._by_rows(parameter))
            part.forward = partial(self._multiply, part)  # pyright: ignore[reportAttributeAccessIssue]
        elif how == "rows":
            style = RowwiseParallel(output_layouts=Partial(), use_local_output=False)
            parallelize_module(part, self.mesh, style)
            part.register_forward_hook(self._sums)
        elif how == "words":
            assert isinstance(part, nn.Embedding)
            part.weight = self._by_rows(part.weight)
            part.forward = partial(self._look_up, part)  # pyright: ignore[reportAttributeAccessIssue]
        elif how == "whole_input":
            part.register_forward_pre_hook(self._whole_input)
        else:
            part.register_forward_hook(self._whole_output)

    def _by_rows(self, parameter: Tensor) -> nn.Parameter:
        return nn.Parameter(distribute_tensor(parameter, self.mesh, [Shard(0)]), parameter.requires_grad)

    def _multiply(self, part: nn.Linear, whole: Tensor) -> Tensor:
        """(B, T, D) through a linear layer, of whose output features each process has some."""
        weight = _local(part.weight)
        bias = None if part.bias is None else _local(part.bias).to(whole.dtype)
        if self.read is None or torch.compiler.is_compiling():  # a compiler decides itself what is kept
            return F.linear(whole, weight.to(whole.dtype), bias)
        return _Product.apply(whole, self.read.own, weight, bias, self.read)  # type: ignore[no-any-return]

    def _look_up(self, part: nn.Embedding, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, t, D) of own tokens. Each process looks up the words that it has."""
        self.length = ids.shape[1]
        places, own = ids - WordsOf(self.mesh, part.weight.shape).first, _local(part.weight)
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
        own, *others = inputs
        if self.gather_again and not torch.compiler.is_compiling():
            self.read = _Read(own.detach(), partial(self._whole, length=self.length))
        return self._whole(own, self.length), *others

    def _whole_output(self, module: nn.Module, inputs: Any, output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """(B, t, D) and tensors (B t, ...) of the same tokens -> (B, T, D) and (B T, ...)."""
        hidden, others = output

        def whole(tensor: Tensor) -> Tensor:
            by_row = tensor.unflatten(0, (len(hidden), -1))
            return _Same.apply(self._gathered(by_row).to_local()[:, : self.length].flatten(0, 1))  # type: ignore[no-any-return]

        self.read = None
        states = self._gathered(hidden).to_local()[:, : self.length]
        return _Same.apply(states), tree_map_only(Tensor, whole, others)

    def _whole(self, own: Tensor, length: int) -> Tensor:
        """(B, t, D) -> (B, T, D), of whose gradient each process finds a part of the sum."""
        return self._gathered(own).to_local(grad_placements=[Partial()])[:, :length]

    def _gathered(self, own: Tensor) -> DTensor:
        """(B, t, ...) -> (B, T, ...), filled up where tokens are."""
        return DTensor.from_local(own, self.mesh, [Shard(1)]).redistribute(placements=[Replicate()])


def _local(tensor: Tensor) -> Tensor:
    """This process's part."""
    assert isinstance(tensor, DTensor)
    return tensor.to_local()


class _Read:
    """A sequence that products share, gathered again for their backward passes, which follow one another."""

    def __init__(self, own: Tensor, whole: Callable[[Tensor], Tensor]) -> None:
        self.own, self._whole_of = own, whole
        self._waiting = 0
        self._whole: Tensor | None = None

    def expect(self) -> None:
        """One more product will ask."""
        self._waiting += 1

    def again(self, own: Tensor) -> Tensor:
        """(B, t, D) -> (B, T, D); the last that was expected to ask leaves nothing behind."""
        whole = self._whole_of(own) if self._whole is None else self._whole
        self._waiting -= 1
        self._whole = whole if self._waiting > 0 else None
        return whole


class _Product(torch.autograd.Function):
    """whole (B, T, D) times weight (F, D) as F.linear has it, of which own tokens (B, t, D) are kept. Weights
    are cast to the format of what they multiply here and again in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, whole: Tensor, own: Tensor, weight: Tensor, bias: Tensor | None, read: _Read
    ) -> Tensor:
        ctx.read = read
        ctx.save_for_backward(own, weight)
        if weight.requires_grad:
            read.expect()
        return F.linear(whole, weight.to(whole.dtype), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        own, weight = ctx.saved_tensors
        slope, (of_whole, _, of_weight, of_bias, _) = upstream[0], ctx.needs_input_grad
        rows = slope.flatten(0, 1)
        d_whole = slope @ weight.to(slope.dtype) if of_whole else None
        d_weight = (rows.T @ ctx.read.again(own).flatten(0, 1)).to(weight.dtype) if of_weight else None
        return d_whole, None, d_weight, rows.sum(0) if of_bias else None, None


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

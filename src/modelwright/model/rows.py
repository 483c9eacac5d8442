"""Rows of the embedding and of the head: for tokens that are new, and as a part that an adapter trains.

New rows begin as the mean of the rows of the pieces that the old tokenizer cut the token into, as in Fast
Vocabulary Transfer (Gee et al., arXiv 2402.09977): near to what the model read before. Where a token has no
pieces, the mean of all rows, which bounds how far the distribution of other tokens moves (Hewitt 2021,
"Initializing new word embeddings for pretrained language models").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modelwright.base.errors import UserError
from modelwright.model.config import ModelConfig

if TYPE_CHECKING:
    from modelwright.model.transformer import Transformer

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one of the two matrices."""

    values: Tensor
    """(n, D)."""
    ids: Tensor | None = None
    """(n,) int64, whose rows they are; None: all, in order."""

    def into(self, matrix: Tensor) -> Tensor:
        """The matrix (V, D) with them in it, in its own format; they may go on behind its last."""
        if self.values.shape[1:] != matrix.shape[1:]:
            raise UserError(f"rows are {self.values.shape[1]} wide, the model's {matrix.shape[1]}")
        ids = self.ids if self.ids is not None else torch.arange(len(self.values))
        if self.ids is None and len(ids) < len(matrix):
            raise UserError(f"there are rows for {len(ids):,} tokens, and the model has {len(matrix):,}")
        size = max(len(matrix), int(ids.max()) + 1) if len(ids) else len(matrix)
        known = set(ids.tolist())
        # lazily: the first gap is at most as far as there are rows, wherever a file says that they end
        absent = next((token for token in range(len(matrix), size) if token not in known), None)
        if absent is not None:
            raise UserError(f"rows reach to token {size - 1}, and there is none for token {absent}")
        made = matrix.new_empty(size, matrix.shape[1])
        made[: len(matrix)] = matrix
        made[ids] = self.values.to(made)
        return made


class LearnedRows(nn.Module):
    """An embedding or a head that is frozen, but for some rows.

    The frozen matrix holds the learned rows too, rounded to its format, so that whoever multiplies with it
    need not know of them. A head's gradient is made for all rows, and those of the frozen ones are dropped.
    """

    ids: Tensor
    place: Tensor

    def __init__(self, base: nn.Module, ids: Tensor) -> None:
        """`base` has a `weight` (V, D); `ids` (n,) are the rows that learn."""
        super().__init__()
        self.base = base.requires_grad_(False)
        held: Tensor = base.weight  # type: ignore[assignment]
        ids = ids.to(held.device)
        place = torch.full((len(held),), -1, device=held.device)
        place[ids] = torch.arange(len(ids), device=held.device)
        self.rows = nn.Parameter(held.detach()[ids].float())
        self.register_buffer("ids", ids, persistent=False)
        self.register_buffer("place", place, persistent=False)

    @property
    def weight(self) -> Tensor:
        """(V, D), with a gradient for the rows that learn."""
        held: Tensor = self.base.weight  # type: ignore[assignment]
        held.data[self.ids] = self.rows.data.to(held.dtype)  # by .data: a graph that holds them stays valid
        return _Within.apply(self.rows, held, self.ids) if torch.is_grad_enabled() else held  # type: ignore[no-any-return]

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D), as an embedding."""
        place, frozen = self.place[ids], self.base(ids)
        learned = F.embedding(place.clamp_min(0), self.rows).to(frozen.dtype)
        return torch.where(place[..., None] >= 0, learned, frozen)


class _Within(torch.autograd.Function):
    """A matrix that holds the learned rows already, as a function of them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, held: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(ids)
        return held.detach()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        return upstream[0][ids].float(), None, None


def matrices(model: Transformer) -> Mapping[str, nn.Embedding | nn.Linear]:
    """The embedding, and the head where it is a matrix of its own."""
    embedding = model.model.embed_tokens
    return {EMBEDDING: embedding} if model.lm_head is None else {EMBEDDING: embedding, HEAD: model.lm_head}


@torch.no_grad()
def widen(model: Transformer, pieces: Mapping[int, Sequence[int]]) -> None:
    """Give new tokens rows, in place. `pieces`: each one's id, and the ids that it was cut into before. Rows
    that a padded matrix has already are taken into use; the others are put behind the last."""
    for module in matrices(model).values():
        old = module.weight.detach()
        mean = old.mean(0, dtype=torch.float32)
        behind = {number: mean for number in range(len(old), max(pieces) + 1)}
        begun = behind | {
            number: old[list(own)].float().mean(0) if own else mean for number, own in pieces.items()
        }
        made = Rows(torch.stack(list(begun.values())), torch.tensor(list(begun))).into(old)
        module.weight = nn.Parameter(made)
        size = "num_embeddings" if isinstance(module, nn.Embedding) else "out_features"
        setattr(module, size, len(made))
    model.config = model.config.model_copy(update={"vocab_size": len(model.head)})


def learn_rows(model: Transformer, wanted: Mapping[str, Tensor | None]) -> None:
    """Let rows of the frozen embedding and head learn, in place: those with the given ids, or (None) all."""
    for name, ids in wanted.items():
        module = model.get_submodule(name)
        if ids is None:
            module.weight = nn.Parameter(module.weight.detach().float())  # type: ignore[operator]
        else:
            model.set_submodule(name, LearnedRows(module, ids))


@torch.no_grad()
def take_rows(model: Transformer, rows: Mapping[str, Rows]) -> None:
    """Go on with the values of `rows`, which learn."""
    learn_rows(model, {name: each.ids for name, each in rows.items()})
    for name, each in rows.items():
        module = model.get_submodule(name)
        learned = module.rows if isinstance(module, LearnedRows) else module.weight
        learned.copy_(each.values)  # type: ignore[operator]


@torch.no_grad()
def rows_of(model: Transformer) -> dict[str, Rows]:
    """What `learn_rows` let learn, in fp32 on the CPU."""
    found: dict[str, Rows] = {}
    for name, module in matrices(model).items():
        if isinstance(module, LearnedRows):
            found[name] = Rows(module.rows.detach().cpu().clone(), module.ids.cpu())
        elif module.weight.requires_grad:
            found[name] = Rows(module.weight.detach().cpu().clone())
    return found


def put_rows(
    weights: dict[str, Tensor], rows: Mapping[str, Rows], config: ModelConfig, *, unties: bool
) -> ModelConfig:
    """Set rows in a model's weights, by name; returns the configuration that these have then. `unties`: a
    head that was the embedding stays what it was, or gets rows of its own."""
    if not rows:
        return config
    tied = config.tie_word_embeddings and not unties
    if config.tie_word_embeddings and unties:
        weights[f"{HEAD}.weight"] = weights[f"{EMBEDDING}.weight"]
    for name, each in rows.items():
        if not (tied and name == HEAD):
            weights[f"{name}.weight"] = each.into(weights[f"{name}.weight"])
    sizes = {len(weights[f"{name}.weight"]) for name in (EMBEDDING, *(() if tied else (HEAD,)))}
    if len(sizes) > 1:
        raise UserError(f"the rows make an embedding and a head of different lengths: {sorted(sizes)}")
    return config.model_copy(update={"vocab_size": sizes.pop(), "tie_word_embeddings": tied})

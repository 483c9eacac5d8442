"""The model at work on the cache: tensors, and no policy.

Prefill, a chunk of a long prefill, and decoding are the same call: some tokens at some positions of
some neighbouring rows, each of which may look at every earlier position of its own row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from modelwright.inference.cache import CacheView, SlotCache
from modelwright.model.transformer import ModelOutput, Transformer


class Runner:
    """A model, and the cache of those it is decoding."""

    def __init__(self, model: Transformer, max_slots: int, max_length: int, chunk: int = 512) -> None:
        self.model = model.eval()
        self.config = model.config
        self.chunk = chunk
        self.device = next(model.parameters()).device
        self._cache = SlotCache(
            self.config.num_hidden_layers,
            max_slots,
            self.config.num_key_value_heads,
            self.config.head_dim,
            max_length,
        )

    @torch.inference_mode()
    def prefill(self, first: int, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read prompts into the rows from `first` on; (B, V) fp32 logits after each prompt's end.

        Prompts are padded at the end to one length. What padding writes lies behind a row's own
        tokens: it is never attended to, and decoding overwrites it.
        """
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=self.device)
        ids = _padded(prompts, self.device)
        last = torch.empty(len(prompts), self.config.hidden_size, device=self.device)
        for start in range(0, ids.shape[1], self.chunk):
            piece = ids[:, start : start + self.chunk]
            positions = torch.arange(start, start + piece.shape[1], device=self.device).expand_as(piece)
            output = self._forward(first, piece, positions, start + piece.shape[1])
            ends = (lengths > start) & (lengths <= start + piece.shape[1])
            last = last.to(output.hidden.dtype)
            last[ends] = output.hidden[ends, lengths[ends] - 1 - start]
        return ModelOutput(hidden=last[:, None], head=output.head).logits()[:, 0]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        """One token further in each of the first B rows: (B, V) fp32 logits."""
        ids = torch.tensor(tokens, device=self.device)[:, None]
        places = torch.tensor(positions, device=self.device)[:, None]
        return self._forward(0, ids, places, max(positions) + 1).logits()[:, 0]

    def move(self, source: int, target: int, length: int) -> None:
        """Give the first `length` positions of a row to another row."""
        if source != target:
            with torch.inference_mode():
                self._cache.move(source, target, length)

    def _forward(self, first: int, ids: Tensor, positions: Tensor, used: int) -> ModelOutput:
        self._cache.reserve(used, self.model.compute_dtype, self.device)
        view = CacheView(self._cache, first, positions, used)
        visible = torch.arange(used, device=self.device) <= positions[:, None, :, None]
        return self.model(ids, positions=positions, mask=visible, cache=view)

    @torch.inference_mode()
    def next_logits(self, prompt: Sequence[int]) -> Tensor:
        """(V,) fp32 logits after a prompt, without the cache."""
        output = self.model(torch.tensor([prompt], device=self.device))
        return ModelOutput(hidden=output.hidden[:, -1:], head=output.head).logits()[0, 0]

    @torch.inference_mode()
    def hidden(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
        """One padded pass without the cache. Returns the head (V, D) and, for each sequence of n ids,
        the hidden states (n - 1, D) that predict its ids from the second on."""
        output = self.model(_padded(sequences, self.device))
        rows = zip(output.hidden, sequences, strict=True)
        return output.head, [hidden[: len(ids) - 1] for hidden, ids in rows]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy new weights in place."""
        self.model.load_state_dict(dict(state))


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=device)

"""Matrices that Phi-3's folders hold as one and we as several: the same numbers, one under another.

model.layers.0.self_attn.qkv_proj.weight    (q + k + v rows, D)    -> q_proj, k_proj, v_proj
model.layers.0.mlp.gate_up_proj.weight      (2 F, D)               -> gate_proj, up_proj
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from modelwright.base.errors import DamagedFile
from modelwright.model.config import ModelConfig


def split_fused(tensors: Iterable[tuple[str, Tensor]], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) pairs with each such matrix taken apart; others pass as they are."""
    q, kv = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    layouts = {
        "self_attn.qkv_proj": {"q_proj": q, "k_proj": kv, "v_proj": kv},
        "mlp.gate_up_proj": dict.fromkeys(("gate_proj", "up_proj"), config.intermediate_size),
    }
    for name, tensor in tensors:
        fused = next((module for module in layouts if f".{module}." in name), None)
        if fused is None:
            yield name, tensor
            continue
        rows = layouts[fused]
        if tensor.shape[:1] != (sum(rows.values()),):
            raise DamagedFile(
                f"{name} has shape {tuple(tensor.shape)}, config.json implies {sum(rows.values())} rows"
            )
        together = fused.rpartition(".")[2]
        for part, piece in zip(rows, tensor.split(list(rows.values())), strict=True):
            yield name.replace(together, part), piece.clone()  # files may not hold pieces that share memory

"""How the network may be cut for tensor parallelism (Megatron-LM, arXiv 1909.08053): the model knows its own
shape, and whoever trains it applies the plan without knowing the model.

In each block the first projections are cut by columns (output features: whole heads, slices of the
feed-forward network) and the last ones by rows (input features), so that two sums per block and direction
are all that the processes exchange. Embedding, head and norms stay whole.
"""

from __future__ import annotations

from typing import Literal

from modelwright.base.errors import ConfigError
from modelwright.model.config import ModelConfig

Cut = Literal["columns", "rows", "summed"]
"""columns: output features are dealt out. rows: input features are, and outputs are summed. summed: the
weight is whole, but each process uses it on its own part only, so that its gradients have to be added up."""


def tensor_plan(config: ModelConfig, ways: int) -> dict[str, Cut]:
    """Module name, `*` for every layer, -> how it is cut into `ways` parts. Mixtures stay whole."""
    if ways == 1:
        return {}
    dense = len(config.mixture_layers) < config.num_hidden_layers
    names = ("num_attention_heads", "num_key_value_heads", *(("intermediate_size",) if dense else ()))
    for name in names:
        if (size := int(getattr(config, name))) % ways:
            raise ConfigError(
                f"compute.tensor_parallel is {ways}, which does not divide {name} ({size}): each process "
                "takes whole heads and an equal part of the feed-forward network"
            )
    if config.attention_bias or config.mlp_bias:
        raise ConfigError(
            f"compute.tensor_parallel is {ways}, and this model adds biases (attention_bias, mlp_bias) to"
            " what processes would sum, each its own: leave it at 1, and spread the model by compute.shard"
        )
    attention, feed_forward = "model.layers.*.self_attn", "model.layers.*.mlp"
    plan: dict[str, Cut] = {f"{attention}.{part}_proj": "columns" for part in "qkv"}
    plan[f"{attention}.o_proj"] = "rows"
    if config.qk_norm:
        plan |= {f"{attention}.q_norm": "summed", f"{attention}.k_norm": "summed"}
    if dense:
        plan |= {f"{feed_forward}.gate_proj": "columns", f"{feed_forward}.up_proj": "columns"}
        plan[f"{feed_forward}.down_proj"] = "rows"
    return plan

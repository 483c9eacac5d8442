"""How the network may be cut for tensor parallelism (Megatron-LM, arXiv 1909.08053): the model knows its own
shape, and whoever trains it applies the plan without knowing the model.

In each block the first projections are cut by columns (output features: whole heads, slices of the
feed-forward network) and the last ones by rows (input features). Embedding and head are cut by words. What
lies between, norms and the residual stream, is dealt out along the sequence (arXiv 2205.05198): a process has
some tokens of every row. So are mixtures of experts, each process with all experts for its own tokens.
Sequences are gathered in front of the first projections, and sums of the last ones dealt out again.
"""

from __future__ import annotations

from typing import Literal

from modelwright.base.errors import ConfigError
from modelwright.model.config import ModelConfig

Cut = Literal["columns", "rows", "words", "whole_input", "whole_output"]
"""columns: output features are dealt out. rows: input features are, and sums of outputs are dealt out along
the sequence. words: rows of an embedding are, and its outputs along the sequence. whole_input, whole_output:
the first argument, or all that is returned, is gathered along the sequence.

A parameter that is not cut is whole on each process, which uses it for its own tokens or heads alone, so that
its gradients have to be added up."""


def tensor_plan(config: ModelConfig, ways: int) -> dict[str, Cut]:
    """Module name -> how it is cut into `ways` parts. Raises ConfigError where the sizes do not allow it."""
    if ways == 1:
        return {}
    _check(config, ways)
    plan: dict[str, Cut] = {"model": "whole_output", "model.embed_tokens": "words"}
    if not config.tie_word_embeddings:
        plan["lm_head"] = "columns"
    for layer in range(config.num_hidden_layers):
        attention, feed_forward = (f"model.layers.{layer}.{part}" for part in ("self_attn", "mlp"))
        plan |= {attention: "whole_input", f"{attention}.o_proj": "rows"}
        plan |= {f"{attention}.{part}_proj": "columns" for part in "qkv"}
        if layer not in config.mixture_layers:
            plan |= {feed_forward: "whole_input", f"{feed_forward}.down_proj": "rows"}
            plan |= {f"{feed_forward}.{part}_proj": "columns" for part in ("gate", "up")}
    return plan


def _check(config: ModelConfig, ways: int) -> None:
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
    if -(-config.vocab_size // ways) * (ways - 1) >= config.vocab_size:
        raise ConfigError(
            f"compute.tensor_parallel is {ways}, and {config.vocab_size} words leave a process without one"
        )

"""The shape of a network: all that memory and arithmetic depend on, for ours and for other people's models.

`Shape.of` takes our own configuration, `read_shape` a Hugging Face config.json, `known_shape` a name from the
table `shapes.yaml` or a size ("7b"). Counts are exact: they are tested against real models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from modelwright.base.errors import UserError, did_you_mean
from modelwright.base.files import read_json
from modelwright.model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder-only transformer, dense or with experts."""

    name: str = ""
    vocab: int
    hidden: int
    """Width D."""
    feed_forward: int
    """Width F inside the feed-forward part of a dense layer."""
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool = False
    """Whether the head is the embedding."""
    gated: bool = True
    """SwiGLU: three matrices instead of two."""
    qk_norm: bool = False
    qkv_bias: bool = False
    other_biases: int = 0
    """Biases of a layer beside those of queries, keys and values."""
    all_biases: bool = False
    """GPT-2: every linear layer and norm has a bias."""
    positions: int = 0
    """Learned positions, as in GPT-2; 0 where they are rotations."""
    experts: int = 0
    """Experts in a layer; 0: dense."""
    active_experts: int = 0
    """Experts that a token passes."""
    expert_width: int = 0
    """F of one expert."""
    shared_width: int = 0
    """F of what every token passes beside the experts."""
    dense_layers: int = 0
    """Layers without experts in a model that has them."""

    def __post_init__(self) -> None:
        sizes = (self.vocab, self.hidden, self.layers, self.heads, self.kv_heads, self.head_dim)
        if min(sizes) < 1 or (self.feed_forward < 1 and not self.experts):
            raise UserError(f"a model shape needs positive sizes, got {self}")
        if self.experts and not 0 < self.active_experts <= self.experts:
            raise UserError(f"{self.active_experts} of {self.experts} experts a token: expected 1 to all")

    @classmethod
    def of(cls, config: ModelConfig) -> Shape:
        """The shape of one of our own networks."""
        experts = config.num_experts
        return cls(
            name=config.architecture,
            vocab=config.vocab_size,
            hidden=config.hidden_size,
            feed_forward=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            tied=config.tie_word_embeddings,
            qk_norm=config.qk_norm,
            qkv_bias=config.qkv_bias,
            other_biases=_other_biases(config.model_dump()),
            experts=experts,
            active_experts=config.num_experts_per_tok,
            expert_width=config.moe_intermediate_size,
            dense_layers=config.num_hidden_layers - len(config.mixture_layers) if experts else 0,
        )

    @property
    def q_size(self) -> int:
        """Numbers in all query heads of a token."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Numbers in all key heads of a token; values have as many."""
        return self.kv_heads * self.head_dim

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.layers - self.dense_layers if self.experts else 0

    @property
    def attention_weights(self) -> int:
        """Weights of a layer's four projections."""
        return self.hidden * 2 * (self.q_size + self.kv_size)

    def feed_forward_weights(self, *, active: bool = False) -> int:
        """Weights of all layers' feed-forward parts; `active`: those that one token meets."""
        matrices = 3 if self.gated else 2
        if not self.experts:
            return self.layers * matrices * self.hidden * self.feed_forward
        width = (self.active_experts if active else self.experts) * self.expert_width + self.shared_width
        routed = self.moe_layers * self.hidden * (matrices * width + self.experts)  # the router's matrix last
        return routed + self.dense_layers * matrices * self.hidden * self.feed_forward

    @property
    def embedding(self) -> int:
        """Weights of the embedding; the head has as many where it is its own."""
        return self.vocab * self.hidden

    @property
    def block_matrices(self) -> int:
        """Weights of all matrices within the blocks: what Muon updates, what LoRA adapts, what is
        quantized."""
        return self.layers * self.attention_weights + self.feed_forward_weights()

    @property
    def small(self) -> int:
        """Norms, biases, learned positions."""
        norms = self.layers * 2 + 1
        count = norms * self.hidden + (self.layers * 2 * self.head_dim if self.qk_norm else 0)
        if self.qkv_bias or self.all_biases:
            count += self.layers * (self.q_size + 2 * self.kv_size)
        count += self.layers * self.other_biases
        if self.all_biases:
            count += self.layers * (2 * self.hidden + self.feed_forward) + norms * self.hidden
        return count + self.positions * self.hidden

    @property
    def parameters(self) -> int:
        """All weights, tied ones once."""
        return self.block_matrices + self.small + self.embedding * (1 if self.tied else 2)

    @property
    def active_parameters(self) -> int:
        """Weights that one token meets: all of them, less the experts that it does not pass."""
        return self.parameters - self.feed_forward_weights() + self.feed_forward_weights(active=True)

    @property
    def matmul_weights(self) -> int:
        """Weights that a token is multiplied with: active matrices and the head, not the embedding's
        look-up."""
        return self.layers * self.attention_weights + self.feed_forward_weights(active=True) + self.embedding

    def forward_flops(self, context: float) -> float:
        """FLOPs of a token's forward pass: 2 per weight, 4 x layers x width x context for scores and mixes
        (PaLM, arXiv 2204.02311, appendix B; the causal half is not taken off). `context`: tokens that it may
        look at, those behind it included. Training is three times that."""
        return 2.0 * self.matmul_weights + 4.0 * self.layers * self.q_size * context


@cache
def _table() -> dict[str, Any]:
    text = (files("modelwright.planning") / "shapes.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def known_shapes() -> dict[str, str]:
    """Name -> where its sizes stand."""
    return {name: row["source"] for name, row in _table()["shapes"].items()}


def find_shape(name: str) -> Shape:
    """A known name, a size word, a name on the hub that is known, a Hugging Face folder or a config.json."""
    path = Path(name)
    if path.is_dir():
        inner = path / "model" / "config.json"
        return read_shape(inner if inner.is_file() else path / "config.json")
    if path.suffix == ".json":
        return read_shape(path)
    if name.count("/") == 1 and (short := _hub_name(name)) in known_shapes():
        return known_shape(short)
    return known_shape(name)


def _hub_name(name: str) -> str:
    """org/SmolLM2-135M-Instruct@main -> smollm2-135m: models of a name have one shape, however tuned."""
    return re.sub(r"-(instruct|chat|base|it|hf)\b.*$", "", name.partition("/")[2].partition("@")[0].lower())


def known_shape(name: str) -> Shape:
    """A shape of the table, by its name or by a size such as "7B", which stands for a usual model of it."""
    shapes, sizes = _table()["shapes"], _table()["sizes"]
    word = name.strip().lower().replace("_", "-").replace(" ", "-")
    key = sizes.get(word, word)
    if key not in shapes:
        raise UserError(
            f"no model shape is known as '{name}': expected a Hugging Face folder, a config.json, a size ("
            f"{', '.join(sizes)}), or a name.{did_you_mean(word, shapes)}"
        )
    row = {field: value for field, value in shapes[key].items() if field != "source"}
    return Shape(name=key, **row)


def read_shape(path: Path) -> Shape:
    """The shape that a Hugging Face config.json describes: Llama, Mistral, Qwen, GPT-2, and mixtures of
    experts written as Mixtral's or Qwen's. Families with other parts (MLA, state spaces) are refused, not
    guessed at."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: expected a Hugging Face folder with its config.json")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path} holds no model configuration: expected a JSON object")
    raw = raw.get("text_config") or raw
    if "n_embd" in raw:
        return _read_gpt2(raw, path)
    foreign = [key for key in ("kv_lora_rank", "state_size", "ssm_cfg") if raw.get(key)]
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    missing = [key for key in needed if not isinstance(raw.get(key), int)]
    if foreign or missing:
        what = f"has {foreign[0]}" if foreign else f"lacks {', '.join(missing)}"
        raise UserError(f"{path} {what}: the planner knows transformers of the Llama kind and GPT-2")
    heads, kind = raw["num_attention_heads"], str(raw.get("model_type", ""))
    shape = Shape(
        name=str(raw.get("_name_or_path") or path.parent.name or kind),
        vocab=raw["vocab_size"],
        hidden=raw["hidden_size"],
        feed_forward=raw.get("intermediate_size") or 4 * raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or raw["hidden_size"] // heads,
        tied=bool(raw.get("tie_word_embeddings", False)),
        qk_norm=kind.startswith("qwen3"),
        qkv_bias=bool(raw.get("attention_bias", False)) or kind.startswith("qwen2"),
        other_biases=0 if kind.startswith("qwen2") else _other_biases(raw),
    )
    return _with_experts(shape, raw)


def _other_biases(raw: Mapping[str, Any]) -> int:
    """What Llama's `attention_bias` adds to the mix of heads, and `mlp_bias` to the feed-forward part."""
    width, inner = raw["hidden_size"], raw.get("intermediate_size") or 4 * raw["hidden_size"]
    return width * bool(raw.get("attention_bias")) + (width + 2 * inner) * bool(raw.get("mlp_bias"))


def _with_experts(shape: Shape, raw: Mapping[str, Any]) -> Shape:
    experts = raw.get("num_experts") or raw.get("num_local_experts") or raw.get("n_routed_experts") or 0
    if not experts:
        return shape
    return replace(
        shape,
        experts=experts,
        active_experts=raw.get("num_experts_per_tok") or 2,
        expert_width=raw.get("moe_intermediate_size") or shape.feed_forward,
        shared_width=raw.get("shared_expert_intermediate_size") or 0,
        dense_layers=len(raw.get("mlp_only_layers") or ()),
    )


def _read_gpt2(raw: Mapping[str, Any], path: Path) -> Shape:
    return Shape(
        name=str(raw.get("_name_or_path") or path.parent.name or "gpt2"),
        vocab=raw["vocab_size"],
        hidden=raw["n_embd"],
        feed_forward=raw.get("n_inner") or 4 * raw["n_embd"],
        layers=raw["n_layer"],
        heads=raw["n_head"],
        kv_heads=raw["n_head"],
        head_dim=raw["n_embd"] // raw["n_head"],
        tied=True,
        gated=False,
        all_biases=True,
        positions=raw.get("n_positions", 1024),
    )

"""A model's weights as the compiled step takes them (kernels/decoder.cpp): packed into strips, and described.

`serves` says which models these are. It lists what the compiled code knows; a model that has anything else is
run by the plain path, so that nothing is ever left out silently.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from modelwright.kernels import decoder
from modelwright.kernels.decoder import Packed
from modelwright.model.adapters import AdapterSet, LowRank
from modelwright.model.attention import Attention
from modelwright.model.config import EXPERT_FIELDS, ModelConfig
from modelwright.model.layers import GatedFeedForward, GeGLU, Linear, RMSNorm, SwiGLU
from modelwright.model.moe import Experts, MixtureOfExperts, Router, StackedLinear
from modelwright.model.quantized import (
    Int4Linear,
    Int4StackedLinear,
    Int8Linear,
    Int8StackedLinear,
    quantize_rows,
)
from modelwright.model.transformer import Block, Decoder, Transformer

LOG = logging.getLogger("modelwright.inference")

MODES = {torch.float32: False, torch.bfloat16: True}
"""Format of products -> whether it is the narrow one."""
ARCHITECTURES = ("qwen3", "qwen2", "llama", "mistral", "gemma", "qwen3_moe")
SETTINGS = EXPERT_FIELDS | {
    "architecture",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_bias",
    "mlp_bias",
    "max_position_embeddings",
    "tie_word_embeddings",
    "sliding_window",
}
"""What the compiled step does justice to in a ModelConfig, whatever it is set to."""
QUANTIZED = (Int8Linear, Int4Linear, Int8StackedLinear, Int4StackedLinear)
PARTS = (
    *(Decoder, Block, Attention, RMSNorm, SwiGLU, GeGLU, MixtureOfExperts, Router, Experts),
    *(Linear, StackedLinear, *QUANTIZED, nn.Embedding, nn.ModuleList),
)
"""Modules that it knows. What rotates does not matter: its tables are taken."""
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    GATE_UP,
    ("mlp.down_proj",),
)
"""Layers of a block that share their input, in the order of decoder.cpp's places."""


def serves(model: Transformer) -> bool:
    """Whether there is compiled code for this model, here. The log says what of a model it does not know."""
    on_cpu = model.compute_dtype in MODES and model.head.device.type == "cpu"
    if not on_cpu or decoder.library() is None:
        return False
    unknown = _unknown(model)
    if unknown:
        LOG.warning("the compiled step does not know %s: the plain path decodes", ", ".join(unknown))
    return not unknown


def _unknown(model: Transformer) -> list[str]:
    """Settings and modules of a model that are not among those that the compiled step knows."""
    config, fields = model.config, ModelConfig.model_fields
    found = [] if config.architecture in ARCHITECTURES else [f"architecture {config.architecture}"]
    found += [
        f"{name} {getattr(config, name)}"
        for name in sorted(fields.keys() - SETTINGS)
        if getattr(config, name) != fields[name].get_default(call_default_factory=True)
    ]
    parts = {type(part) for part in model.model.modules() if part is not model.model.rope}
    return found + sorted(part.__name__ for part in parts - set(PARTS))


class PackedModel:
    """The packed weights, and the structure that tells compiled code where they lie (`struct`)."""

    def __init__(
        self, model: Transformer, positions: int, *, eight_bit_head: bool, release: bool = False
    ) -> None:
        """`positions` is how many there can be in a sequence. `eight_bit_head`: see CompiledRunner.
        `release`: the model lets go of each weight once it is packed."""
        self._model, self._dtype = model, model.compute_dtype
        self._held: list[Any] = []
        self._held_adapters: list[Any] = []
        config = model.config
        layers = (decoder.LayerStruct * config.num_hidden_layers)()
        for number, block in enumerate(model.model.layers):
            assert isinstance(block, Block)
            self._describe_layer(layers[number], block)
            if release:
                block.to("meta")
        self._held.append(layers)
        cosine, sine = model.model.rope(torch.arange(positions), torch.float32)
        embedding = None
        if model.lm_head is not None or eight_bit_head:
            embedding = self._hold(model.model.embed_tokens.weight.detach().to(self._dtype).contiguous())
        self.struct = decoder.ModelStruct(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            inner=config.intermediate_size,
            vocabulary=config.vocab_size,
            window=config.sliding_window or 0,
            gelu=config.gelu,
            experts=config.num_experts,
            asked=config.num_experts_per_tok,
            expert_inner=config.moe_intermediate_size,
            normalise=config.norm_topk_prob,
            epsilon=config.rms_norm_eps,
            embedding_scale=torch.tensor(config.embedding_scale, dtype=self._dtype).item(),
            layer=layers,
            embedding=embedding,
            norm=self._norm(model.model.norm),
            head=self._matrix(self._packed_head(eight_bit_head)),
            cosine=self._hold(cosine.contiguous()),
            sine=self._hold(sine.contiguous()),
        )
        if release:
            model.to("meta")

    # --- layers

    def _describe_layer(self, layer: decoder.LayerStruct, block: Block) -> None:
        attention, feed_forward = block.self_attn, block.mlp
        assert isinstance(attention, Attention)
        layer.attention_norm = self._norm(block.input_layernorm)
        layer.feed_forward_norm = self._norm(block.post_attention_layernorm)
        if attention.qk_norm:
            layer.query_norm = self._norm(attention.q_norm)
            layer.key_norm = self._norm(attention.k_norm)
        layer.qkv = self._packed(attention.q_proj, attention.k_proj, attention.v_proj)
        layer.out = self._packed(attention.o_proj)
        if isinstance(feed_forward, GatedFeedForward):
            layer.gate_up = self._packed(feed_forward.gate_proj, feed_forward.up_proj, in_turns=True)
            layer.down = self._packed(feed_forward.down_proj)
            return
        assert isinstance(feed_forward, MixtureOfExperts)
        layer.router = self._matrix(decoder.pack_floats(feed_forward.gate.weight.detach().float()))
        described = self._describe_experts(feed_forward.experts)
        self._held.append(described)
        layer.experts = ctypes.addressof(described)

    def _describe_experts(self, experts: Experts) -> ctypes.Array[decoder.ExpertStruct]:
        stacks = (experts.gate_proj, experts.up_proj, experts.down_proj)
        of_each = zip(*(_Weights.of(stack, self._dtype).split() for stack in stacks), strict=True)
        described = (decoder.ExpertStruct * self._model.config.num_experts)()
        for expert, (gate, up, down) in zip(described, of_each, strict=True):
            expert.gate_up = self._matrix(_pack((gate, up), self._dtype, in_turns=True))
            expert.down = self._matrix(_pack((down,), self._dtype))
        return described

    def _packed(self, *layers: nn.Module, in_turns: bool = False) -> decoder.MatrixStruct:
        """Layers that share their input as one matrix: one under another, or two `in_turns`."""
        weights = [_Weights.of(layer, self._dtype) for layer in layers]
        return self._matrix(_pack(weights, self._dtype, in_turns=in_turns))

    def _packed_head(self, eight_bits: bool) -> Packed:
        weight = self._model.head.detach()
        if not eight_bits:
            return decoder.pack_floats(weight.to(self._dtype))
        levels, scales = quantize_rows(weight)
        return _pack((_Weights(levels, 8, scales),), self._dtype)

    # --- adapters

    def pack_adapters(self, adapters: AdapterSet) -> None:
        """The adapters that there are now, each as what it adds to the four matrices of every layer."""
        names = adapters.names
        self._held_adapters, self.struct.rank = [], 0
        for number in range(self._model.config.num_hidden_layers):
            described = (decoder.AdapterStruct * (4 * len(names)))()
            for place, group in enumerate(GROUPS):
                layers = [f"model.layers.{number}.{layer}" for layer in group]
                for index, name in enumerate(names):
                    self._describe_adapter(described[4 * index + place], adapters, name, layers)
            self._held_adapters.append(described)
            self.struct.layer[number].adapters = ctypes.addressof(described) if names else None

    def _describe_adapter(
        self, target: decoder.AdapterStruct, adapters: AdapterSet, name: str, layers: Sequence[str]
    ) -> None:
        parts = [adapters[name].layers.get(layer) for layer in layers]
        if not any(parts):
            return
        in_turns = layers[0].endswith(GATE_UP[0])
        down, up = self._low_rank(layers, parts, in_turns)
        target.down, target.up = down.described(), up.described()
        self.struct.rank = max(self.struct.rank, down.shape[0])
        gain = self._gain(layers, [adapters.gain(name, layer) for layer in layers], in_turns)
        target.gain = None if gain is None else gain.data_ptr()
        self._held_adapters += [down, up, gain]

    def _low_rank(
        self, layers: Sequence[str], parts: Sequence[LowRank | None], in_turns: bool
    ) -> tuple[Packed, Packed]:
        """Both halves of what is added to layers that share their input, as one: ranks one under another, and
        each layer's outputs made of its own ranks alone."""
        down = torch.cat([part.a for part in parts if part is not None]).to(self._dtype)
        outs: list[Tensor] = []
        before = 0
        for layer, part in zip(layers, parts, strict=True):
            out = torch.zeros(self._outputs(layer), len(down))
            if part is not None:
                out[:, before : before + len(part.a)] = part.b.float() * part.scale
                before += len(part.a)
            outs.append(out.to(self._dtype))
        return decoder.pack_floats(down), decoder.pack_floats(_joined(outs, in_turns))

    def _gain(self, layers: Sequence[str], gains: Sequence[Tensor | None], in_turns: bool) -> Tensor | None:
        """What DoRA multiplies the outputs of layers that share their input with; None without it."""
        if all(gain is None for gain in gains):
            return None
        each = [
            torch.ones(self._outputs(layer)) if gain is None else gain
            for layer, gain in zip(layers, gains, strict=True)
        ]
        return decoder.pack_vector(_joined(each, in_turns))

    def _outputs(self, layer: str) -> int:
        return int(self._model.get_submodule(layer).out_features)  # type: ignore[arg-type]

    # --- memory that compiled code is pointed to

    def _hold(self, tensor: Tensor) -> int:
        """The address of a tensor that lives as long as this."""
        self._held.append(tensor)
        return tensor.data_ptr()

    def _norm(self, norm: RMSNorm) -> int:
        weight = norm.weight.detach().float()
        return self._hold(weight + 1 if norm.centred else weight.contiguous().clone())

    def _matrix(self, packed: Packed) -> decoder.MatrixStruct:
        self._held.append(packed)
        return packed.described()


@dataclass(frozen=True, slots=True)
class _Weights:
    """What a linear layer, or a stack of them, multiplies by: `values` x `scales`, or just `values`."""

    values: Tensor
    """(..., out, in) floats in the format of products, or int8 levels."""
    bits: int
    """Of a level; 0: floats."""
    scales: Tensor | None = None
    """(..., out, groups) fp32."""
    bias: Tensor | None = None
    """(out,)."""

    @classmethod
    def of(cls, layer: nn.Module, dtype: torch.dtype) -> _Weights:
        bias = getattr(layer, "bias", None)
        if isinstance(layer, QUANTIZED):
            bits = 4 if isinstance(layer, Int4Linear | Int4StackedLinear) else 8
            return cls(layer.levels(), bits, layer.scales().float(), bias)
        assert isinstance(layer, Linear | StackedLinear)
        return cls(layer.weight.detach().to(dtype), 0, bias=bias)

    def split(self) -> list[_Weights]:
        """Those of each layer of a stack."""
        if self.scales is None:
            return [_Weights(values, self.bits) for values in self.values]
        pairs = zip(self.values, self.scales, strict=True)
        return [_Weights(values, self.bits, scales) for values, scales in pairs]


def _joined(parts: Sequence[Tensor], in_turns: bool) -> Tensor:
    """Outputs of layers that share their input: one under another, or those of two `in_turns`."""
    return decoder.interleaved(*parts) if in_turns else torch.cat(list(parts))


def _pack(weights: Sequence[_Weights], dtype: torch.dtype, *, in_turns: bool = False) -> Packed:
    """Weights of one kind and of the same inputs as one matrix."""
    values, bias = _joined([each.values for each in weights], in_turns), None
    if any(each.bias is not None for each in weights):
        biases = [torch.zeros(len(w.values)) if w.bias is None else w.bias.detach().float() for w in weights]
        bias = _joined(biases, in_turns)
    bits, *others = (each.bits for each in weights)
    assert all(other == bits for other in others), "layers that share their input are of one kind"
    if not bits:
        return decoder.pack_floats(values, bias)
    scales = _joined([each.scales for each in weights if each.scales is not None], in_turns)
    if bits == 4:
        return decoder.pack_nibbles(values, scales, bias)
    return decoder.pack_bytes(values, scales, bias, fours=dtype == torch.bfloat16 and decoder.has_unit())

"""The compiled runner: a whole step in one call of compiled code (kernels/decoder.cpp).

The weights are packed for it when it is made and when they change. They need their memory a second time; the
model itself is kept for what the compiled code does not do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.inference.runner import Piece, PlainRunner, Runner
from modelwright.kernels import decoder
from modelwright.kernels.decoder import Packed
from modelwright.model.adapters import AdapterSet, LowRank
from modelwright.model.attention import Attention
from modelwright.model.layers import Linear, SwiGLU
from modelwright.model.quantized import Int4Linear, Int8Linear, quantize_rows
from modelwright.model.transformer import Block, Transformer

MODES = {torch.float32: False, torch.bfloat16: True}
"""Format of products -> whether it is the narrow one."""
GATE_UP = ("mlp.gate_proj", "mlp.up_proj")
GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    GATE_UP,
    ("mlp.down_proj",),
)
"""Layers of a block that share their input, in the order of decoder.cpp's places."""


def serves(model: Transformer) -> bool:
    """Whether there is compiled code for this model, here."""
    dense = not model.config.mixture_layers
    return (
        dense
        and model.compute_dtype in MODES
        and model.head.device.type == "cpu"
        and decoder.library() is not None
    )


def runner_of(
    model: Transformer, blocks: int, cache: str, adapters: AdapterSet, *, head: str, use_compiled: bool
) -> Runner:
    """The quickest runner that there is for a model here; the plain one where `use_compiled` is False."""
    if use_compiled and serves(model):
        return CompiledRunner(model, blocks, cache, adapters, eight_bit_head=head == "int8")
    if head == "int8":
        raise UserError("head 'int8' needs the compiled path: a dense model on a CPU, and GCC on Linux")
    return PlainRunner(model, blocks, cache, adapters)


class CompiledRunner:
    """The model in compiled code, with its cache."""

    def __init__(
        self,
        model: Transformer,
        blocks: int,
        cache: str = "auto",
        adapters: AdapterSet | None = None,
        *,
        eight_bit_head: bool = False,
    ) -> None:
        """`eight_bit_head` keeps the output projection in int8, one scale for each token: in a small model
        it is a large part of what every token reads. It is off by its rounding alone, at most 1/254 of a
        row's largest."""
        self.model = model.eval()
        self._adapters = adapters or AdapterSet(model)
        self.device = torch.device("cpu")
        self._narrow = MODES[model.compute_dtype]
        self._eight_bit_head = eight_bit_head
        self._blocks = blocks
        self._eight_bits = cache == "int8"
        self._pack()
        self.clear()

    # --- memory that compiled code is pointed to

    def clear(self) -> None:
        """Make the cache anew, zeros everywhere, in memory that takes no room before it is written."""
        config, tile = self.model.config, decoder.TILE
        heads = (config.num_hidden_layers, self._blocks, config.num_key_value_heads)
        size = -(-config.head_dim // tile) * tile * tile
        stored = torch.int8 if self._eight_bits else self.model.compute_dtype
        self._cache = [torch.zeros(*heads, size, dtype=stored) for _ in range(2)]
        self._scales = [torch.ones(*heads, tile) for _ in range(2)] if self._eight_bits else []
        self._point_to_cache()

    def _point_to_cache(self) -> None:
        self._struct.keys, self._struct.values = (tensor.data_ptr() for tensor in self._cache)
        if self._scales:
            self._struct.key_scales, self._struct.value_scales = (each.data_ptr() for each in self._scales)

    @torch.no_grad()
    def _pack(self) -> None:
        model, config = self.model, self.model.config
        self._held: list[Any] = []
        layers = (decoder.LayerStruct * config.num_hidden_layers)()
        for number, block in enumerate(model.model.layers):
            assert isinstance(block, Block)
            self._describe_layer(layers[number], block)
        positions = torch.arange(config.max_position_embeddings)
        cosine, sine = model.model.rope(positions, torch.float32)
        embedding = None
        if model.lm_head is not None or self._eight_bit_head:
            embedding = self._hold(model.model.embed_tokens.weight.to(model.compute_dtype).contiguous())
        kind = decoder.BFLOAT16 if self._narrow else decoder.FLOAT32
        self._struct = decoder.ModelStruct(
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim,
            inner=config.intermediate_size,
            vocabulary=config.vocab_size,
            window=config.sliding_window or 0,
            epsilon=config.rms_norm_eps,
            layer=layers,
            embedding=embedding,
            norm=self._vector(model.model.norm.weight),
            head=self._matrix(self._packed_head()),
            cosine=self._hold(cosine.contiguous()),
            sine=self._hold(sine.contiguous()),
            blocks=self._blocks,
            cache_kind=decoder.INT8 if self._eight_bits else kind,
        )
        self._held.append(layers)
        self._pack_adapters()

    def _packed_head(self) -> Packed:
        weight = self.model.head
        if not self._eight_bit_head:
            return decoder.pack_floats(weight.to(self.model.compute_dtype))
        levels, scales = quantize_rows(weight)
        return decoder.pack_bytes(levels, scales, fours=self._narrow and decoder.has_unit())

    def _pack_adapters(self) -> None:
        """The adapters that there are now, each as what it adds to the four matrices of every layer."""
        names = self._packed_adapters = self._adapters.names
        self._held_adapters: list[Any] = []
        largest = 0
        for number in range(self.model.config.num_hidden_layers):
            described = (decoder.AdapterStruct * (4 * len(names)))()
            for place, group in enumerate(GROUPS):
                for index, name in enumerate(names):
                    found = self._adapters[name].layers
                    parts = [found.get(f"model.layers.{number}.{layer}") for layer in group]
                    if not any(parts):
                        continue
                    pair = self._low_rank(number, group, parts)
                    self._held_adapters.append(pair)
                    target = described[4 * index + place]
                    target.down, target.up = (packed.described() for packed in pair)
                    largest = max(largest, pair[0].shape[0])
            self._held_adapters.append(described)
            self._struct.layer[number].adapters = ctypes.addressof(described) if names else None
        self._struct.rank = largest

    def _low_rank(
        self, number: int, group: tuple[str, ...], parts: Sequence[LowRank | None]
    ) -> tuple[Packed, Packed]:
        """Both halves of what is added to the layers of a group, as one: ranks one under another, and each
        layer's outputs made of its own ranks alone."""
        dtype = self.model.compute_dtype
        down = torch.cat([part.a for part in parts if part is not None]).to(dtype)
        outs: list[Tensor] = []
        before = 0
        for layer, part in zip(group, parts, strict=True):
            module = self.model.get_submodule(f"model.layers.{number}.{layer}")
            out = torch.zeros(int(module.out_features), len(down))  # type: ignore[arg-type]
            if part is not None:
                out[:, before : before + len(part.a)] = part.b.float() * part.scale
                before += len(part.a)
            outs.append(out.to(dtype))
        up = decoder.interleaved(*outs) if group == GATE_UP else torch.cat(outs)
        return decoder.pack_floats(down), decoder.pack_floats(up)

    def _describe_layer(self, layer: decoder.LayerStruct, block: Block) -> None:
        attention, feed_forward = block.self_attn, block.mlp
        assert isinstance(attention, Attention) and isinstance(feed_forward, SwiGLU)
        layer.attention_norm = self._vector(block.input_layernorm.weight)
        layer.feed_forward_norm = self._vector(block.post_attention_layernorm.weight)
        if attention.qk_norm:
            layer.query_norm = self._vector(attention.q_norm.weight)
            layer.key_norm = self._vector(attention.k_norm.weight)
        dtype = self.model.compute_dtype
        layer.qkv = self._matrix(_pack((attention.q_proj, attention.k_proj, attention.v_proj), dtype))
        layer.out = self._matrix(_pack((attention.o_proj,), dtype))
        pair = (feed_forward.gate_proj, feed_forward.up_proj)
        layer.gate_up = self._matrix(_pack(pair, dtype, in_turns=True))
        layer.down = self._matrix(_pack((feed_forward.down_proj,), dtype))

    def _hold(self, tensor: Tensor) -> int:
        """The address of a tensor that lives as long as this runner."""
        self._held.append(tensor)
        return tensor.data_ptr()

    def _vector(self, weight: Tensor) -> int:
        return self._hold(weight.detach().float().contiguous().clone())

    def _matrix(self, packed: Packed) -> decoder.MatrixStruct:
        self._held.append(packed)
        return packed.described()

    # --- a step

    def logits(self, pieces: Sequence[Piece]) -> Tensor:
        """(outputs of all pieces, V) fp32."""
        outputs = sum(piece.outputs for piece in pieces)
        found = torch.empty(outputs, self.model.config.vocab_size)
        self._run(pieces, logits=found)
        return found

    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """(tokens of all pieces, D) fp32."""
        rows = sum(len(piece.ids) for piece in pieces)
        found = torch.empty(rows, self.model.config.hidden_size)
        self._run(pieces, hidden=found)
        return found

    def _run(
        self, pieces: Sequence[Piece], logits: Tensor | None = None, hidden: Tensor | None = None
    ) -> None:
        counts = np.array([len(piece.ids) for piece in pieces], dtype=np.int64)
        ends = counts.cumsum()
        first = ends - counts
        rows = int(ends[-1])
        ids = np.fromiter(chain.from_iterable(piece.ids for piece in pieces), np.int64, rows)
        starts = np.array([piece.start for piece in pieces], dtype=np.int64)
        positions = np.arange(rows, dtype=np.int64) + np.repeat(starts - first, counts)
        width = max(len(piece.blocks) for piece in pieces)
        tables = np.zeros((len(pieces), width), dtype=np.int32)
        for number, piece in enumerate(pieces):
            tables[number, : len(piece.blocks)] = piece.blocks
        numbers = {name: number for number, name in enumerate(self._packed_adapters)}
        adapters = np.array(
            [-1 if piece.adapter is None else numbers[piece.adapter] for piece in pieces], dtype=np.int64
        )
        wanted = np.empty(0, dtype=np.int64)
        if logits is not None:
            outputs = np.array([piece.outputs for piece in pieces], dtype=np.int64)
            before = outputs.cumsum() - outputs
            wanted = np.arange(len(logits), dtype=np.int64) + np.repeat(ends - outputs - before, outputs)
        step = decoder.StepStruct(
            rows=rows,
            sequences=len(pieces),
            outputs=len(wanted),
            table_width=width,
            ids=ids.ctypes.data,
            positions=positions.ctypes.data,
            first_row=first.ctypes.data,
            count=counts.ctypes.data,
            adapter=adapters.ctypes.data,
            tables=tables.ctypes.data,
            output_rows=wanted.ctypes.data,
            hidden=None if hidden is None else hidden.data_ptr(),
            logits=None if logits is None else logits.data_ptr(),
        )
        decoder.run(self._struct, step, narrow=self._narrow)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copy new weights, and pack them again."""
        self.model.load_state_dict(dict(state))
        self._pack()
        self.clear()

    def adapters_changed(self) -> None:
        """Pack the adapters again."""
        self._pack_adapters()


def _pack(layers: Sequence[torch.nn.Module], dtype: torch.dtype, *, in_turns: bool = False) -> Packed:
    """Layers that share their input as one matrix: one under another, or two `in_turns`."""

    def joined(parts: Sequence[Tensor]) -> Tensor:
        return decoder.interleaved(*parts) if in_turns else torch.cat(list(parts))

    biases = [getattr(layer, "bias", None) for layer in layers]
    bias = joined([each for each in biases if each is not None]) if biases[0] is not None else None
    if all(isinstance(layer, Int8Linear | Int4Linear) for layer in layers):
        quantized = [layer for layer in layers if isinstance(layer, Int8Linear | Int4Linear)]
        levels = joined([layer.levels() for layer in quantized])
        scales = joined([layer.scales().float() for layer in quantized])
        if isinstance(layers[0], Int4Linear):
            return decoder.pack_nibbles(levels, scales, bias)
        fours = dtype == torch.bfloat16 and decoder.has_unit()
        return decoder.pack_bytes(levels, scales, bias, fours=fours)
    weights = [layer.weight.to(dtype) for layer in layers if isinstance(layer, Linear)]
    assert len(weights) == len(layers), "layers that share their input are of one kind"
    return decoder.pack_floats(joined(weights), bias)

"""The compiled runner: a whole step in one call of compiled code (kernels/decoder.cpp).

The weights are packed for it when it is made and when they change. The model's own stay as they are, so there
is every weight twice, unless the runner owns the model: then they are let go of as they are packed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import UserError
from modelwright.inference import graphs
from modelwright.inference.cache import unwritten_zeros
from modelwright.inference.graphs import GraphRunner
from modelwright.inference.packing import MODES, PackedModel, serves
from modelwright.inference.runner import Piece, PlainRunner, Runner
from modelwright.kernels import decoder
from modelwright.model.adapters import AdapterSet
from modelwright.model.transformer import Transformer


def runner_of(
    model: Transformer,
    blocks: int,
    cache: str,
    adapters: AdapterSet,
    *,
    head: str,
    use_compiled: bool,
    owns_model: bool = False,
) -> Runner:
    """The quickest runner that there is for a model here; the plain one where `use_compiled` is False."""
    if use_compiled and serves(model):
        eight_bit_head = head == "int8"
        return CompiledRunner(
            model, blocks, cache, adapters, eight_bit_head=eight_bit_head, owns_model=owns_model
        )
    if head == "int8":
        raise UserError(
            "head 'int8' needs the compiled path: a model that it knows on a CPU, and GCC on Linux"
        )
    if use_compiled and graphs.serves(model):
        return GraphRunner(model, blocks, cache, adapters)
    return PlainRunner(model, blocks, cache, adapters)


def _refuse(*_: object) -> None:
    raise RuntimeError(
        "the weights of this model are an engine's, which was told that it owns the model: ask the engine, or"
        " make it without owns_model"
    )


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
        owns_model: bool = False,
    ) -> None:
        """`owns_model`: nobody else needs it, and what is packed is let go of (packing.PackedModel).
        `eight_bit_head` keeps the output projection in int8, one scale for each token: in a small model
        it is a large part of what every token reads. It is off by its rounding alone, at most 1/254 of a
        row's largest."""
        self.model = model.eval()
        self._adapters = adapters or AdapterSet(model)
        self.device = torch.device("cpu")
        self._narrow = MODES[model.compute_dtype]
        self._eight_bit_head, self._owns_model = eight_bit_head, owns_model
        self._blocks = blocks
        self._eight_bits = cache == "int8"
        self._pack()
        self.clear()
        if owns_model:
            model.register_forward_pre_hook(_refuse)

    # --- memory that compiled code is pointed to

    def clear(self) -> None:
        """Make the cache anew, zeros everywhere, in memory that takes no room before it is written. The old
        is let go of first, as there may not be room for both."""
        config, tile = self.model.config, decoder.TILE
        heads = (config.num_hidden_layers, self._blocks, config.num_key_value_heads)
        size = -(-config.head_dim // tile) * tile * tile
        stored = torch.int8 if self._eight_bits else self.model.compute_dtype
        self._cache, self._scales = list[Tensor](), list[Tensor]()
        cache = [unwritten_zeros(*heads, size, dtype=stored) for _ in range(2)]
        scales = [torch.ones(*heads, tile) for _ in range(2)] if self._eight_bits else []
        self._cache, self._scales = cache, scales
        self._point_to_cache()

    def _point_to_cache(self) -> None:
        self._struct.keys, self._struct.values = (tensor.data_ptr() for tensor in self._cache)
        if self._scales:
            self._struct.key_scales, self._struct.value_scales = (each.data_ptr() for each in self._scales)

    def _pack(self) -> None:
        config = self.model.config
        # A sequence cannot be longer than the cache, and the tables of some models are long.
        positions = min(config.max_position_embeddings, self._blocks * decoder.TILE)
        self._packed = PackedModel(
            self.model, positions, eight_bit_head=self._eight_bit_head, release=self._owns_model
        )
        self._struct = self._packed.struct
        kind = decoder.BFLOAT16 if self._narrow else decoder.FLOAT32
        self._struct.blocks, self._struct.cache_kind = (
            self._blocks,
            decoder.INT8 if self._eight_bits else kind,
        )
        self._pack_adapters()

    def _pack_adapters(self) -> None:
        self._packed_adapters = self._adapters.names
        self._packed.pack_adapters(self._adapters)

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
        if not self._cache:
            self.clear()  # there was no memory for it the last time
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
        self.model.load_state_dict(dict(state), assign=self._owns_model)
        self._pack()
        self.clear()

    def adapters_changed(self) -> None:
        """Pack the adapters again."""
        self._pack_adapters()

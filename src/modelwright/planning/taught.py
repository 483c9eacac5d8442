"""What a teacher adds to a training: its weights, its pass over each batch, and its logits in the loss.

It has no gradient and keeps nothing for one, so it costs a third of what its size would cost in training. The
loss judges a chunk of both models' logits at a time (kernels/paired_logits.py), in several fp32 copies.
What a student writes by itself (`on_policy`) is counted in `writing`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelwright.base.files import read_json
from modelwright.kernels.cross_entropy import COPIES
from modelwright.kernels.paired_logits import paired_chunk
from modelwright.planning.activations import FP32, Batch, layer_bytes
from modelwright.planning.shape import Shape, find_shape


class Named(Protocol):
    """Settings that name a model's folder."""

    @property
    def model(self) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A frozen model beside the one that is trained."""

    shape: Shape
    quantized: float = 0.0
    """Bytes of its files, where they are held as they are stored; 0: held in the format of products."""

    @classmethod
    def of(cls, settings: Named | None) -> Teacher | None:
        """The one that settings name; none for none. Raises UserError where its shape is not known."""
        if settings is None:
            return None
        shape, config = find_shape(str(settings.model)), settings.model / "config.json"
        is_quantized = config.is_file() and bool(read_json(config).get("quantization_config"))
        files = settings.model.glob("*.safetensors") if is_quantized else ()
        return cls(shape=shape, quantized=float(sum(file.stat().st_size for file in files)))

    def held_bytes(self, product: int) -> float:
        """Of its weights; `product`: bytes of a number in products."""
        return self.quantized or float(product * self.shape.parameters)

    def loss_bytes(self, student: Shape, batch: Batch, supervised: float) -> float:
        """What judging takes: last hidden states, copied where they have a loss, and chunks of logits."""
        chunk = min(batch.tokens * supervised, paired_chunk(student.vocab, batch.gpu_memory))
        logits = COPIES * FP32 * chunk * max(student.vocab, self.shape.vocab)
        hidden = batch.bytes * batch.tokens * self.shape.hidden * (1 + supervised)
        return logits + hidden

    def passing_bytes(self, batch: Batch) -> float:
        """A block's activations while it reads a batch: there before the loss is."""
        return layer_bytes(self.shape, batch)

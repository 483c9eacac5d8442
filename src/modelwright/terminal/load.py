"""A model ready to be asked, and the line that says which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelwright.base.device import choose
from modelwright.formats.huggingface import load_model
from modelwright.formats.locate import Identity, identify, resolve_model
from modelwright.inference.engine import Engine
from modelwright.model.transformer import Transformer
from modelwright.planning.shape import Shape
from modelwright.tokenizer.bpe import BPETokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine, its model and tokenizer, and where they come from."""

    engine: Engine
    model: Transformer
    tokenizer: BPETokenizer
    about: Identity

    @property
    def line(self) -> str:
        """Path, stage, size and id in one line."""
        count = Shape.of(self.model.config).parameters  # quantized weights are no parameters to torch
        size = f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"
        return f"{self.about.path} · {self.about.role} · {size} parameters · {self.about.short_id}"


def load(
    model_path: Path | str,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    slots: int = 1,
    stop_ids: Sequence[int] | None = None,
) -> Loaded:
    """Load what `model_path` points at for `slots` conversations at a time; `dtype` may be "auto"."""
    folder = resolve_model(model_path)
    chosen = choose(device, dtype)
    model = load_model(folder, chosen.dtype, chosen.name)
    tokenizer = BPETokenizer.load(folder)
    engine = Engine(model, tokenizer, max_slots=slots, stop_ids=stop_ids)
    return Loaded(engine, model, tokenizer, identify(folder))

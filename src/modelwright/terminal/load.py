"""A model ready to be asked, and the line that says which one it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from modelwright.base.device import choose
from modelwright.formats.huggingface import load_model
from modelwright.formats.locate import Identity, identify, resolve_model
from modelwright.inference.engine import Engine
from modelwright.tokenizer.bpe import BPETokenizer


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine, its tokenizer, and where they come from."""

    engine: Engine
    tokenizer: BPETokenizer
    about: Identity
    parameters: int

    @property
    def line(self) -> str:
        """Path, stage, size and id in one line."""
        millions = self.parameters / 1e6
        size = f"{millions:.1f}M" if millions >= 1 else f"{self.parameters / 1e3:.0f}K"
        return f"{self.about.path} · {self.about.role} · {size} parameters · {self.about.short_id}"


def load(model_path: Path | str, device: str = "cpu") -> Loaded:
    """Load what `model_path` points at for one conversation at a time."""
    folder = resolve_model(model_path)
    model = load_model(folder, torch.float32, choose(device, "float32").name)
    tokenizer = BPETokenizer.load(folder)
    engine = Engine(model, tokenizer, max_slots=1)
    # Buffers too: quantized weights are no parameters to torch.
    count = sum(tensor.numel() for name, tensor in model.state_dict().items() if "scale" not in name)
    return Loaded(engine, tokenizer, identify(folder), count)

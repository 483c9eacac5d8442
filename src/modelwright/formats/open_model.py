"""A model with its tokenizer, of whatever a path points at."""

from __future__ import annotations

from pathlib import Path

from modelwright.base.device import Device
from modelwright.formats.huggingface import load_model
from modelwright.formats.locate import resolve_model
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.bpe import BPETokenizer


def open_model(path: Path | str, device: Device) -> tuple[Transformer, BPETokenizer]:
    """Of a run directory, a stage folder or a model's folder, as it is now."""
    folder = resolve_model(path)
    return load_model(folder, device.dtype, device.name), BPETokenizer.load(folder)

"""What a model folder holds, without loading it: its files of weights, and the format they are stored in."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import read_json

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
DESCRIPTIONS = ("*.json", "*.jinja", "*.model", "*.txt", "README.md", "LICENSE*")
"""What is taken beside weights: settings, the tokenizer's files, the card. Never code, never pickles."""
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def weight_files(folder: Path) -> list[Path]:
    """The files of a folder's weights: one, or several named by an index, all of which must be there.
    Where both are, the one is read, as transformers does."""
    index = folder / INDEX
    several = index.exists() and not (folder / WEIGHTS).exists()
    names = _indexed(index) if several else [WEIGHTS]
    for name in names:
        path = folder / name
        if path.parent.resolve() != folder.resolve():
            raise DamagedFile(f"{index} names '{name}', which lies outside of {folder}")
        if not path.exists():
            raise UserError(f"{path} is missing{pickles(folder)}")
    return [folder / name for name in names]


def _indexed(index: Path) -> list[str]:
    """The files that an index names."""
    content = read_json(index)
    places = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise DamagedFile(f"{index} names no files: expected weight_map, a file for each weight")
    return sorted(set(places.values()))


def pickles(folder: Path) -> str:
    """What to do about weights that are pickles, which can run code when read; "" where there are none."""
    found = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in folder.glob(pattern))
    if not found:
        return ""
    return (
        f". {found[0]} is a pickle, which can run code when it is read, and is not: where you trust it,"
        " convert it by AutoModelForCausalLM.from_pretrained(...).save_pretrained(...) of transformers"
    )


def stored_dtype(folder: Path) -> torch.dtype:
    """The format of most of the weights' numbers; fp32 where we compute in none such (quantized ones)."""
    found: Counter[str] = Counter()
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - no mapping
                    tensor = file.get_slice(name)
                    found[tensor.get_dtype()] += torch.Size(tensor.get_shape()).numel()
        except (SafetensorError, OSError) as error:
            raise DamagedFile(f"{path} is truncated or no safetensors file: {error}") from error
    common = found.most_common(1)
    return _DTYPES.get(common[0][0] if common else "", torch.float32)

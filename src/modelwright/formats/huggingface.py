"""Models as Hugging Face folders: config.json and safetensors that transformers, vLLM and llama.cpp load."""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import atomic_path, read_json, write_json
from modelwright.formats import compressed_tensors
from modelwright.formats.config_json import carried_over, config_to_json, read_config
from modelwright.formats.experts import as_held, as_stored
from modelwright.formats.fused import split_fused
from modelwright.formats.stored import WEIGHTS, weight_files
from modelwright.model.config import ModelConfig
from modelwright.model.quantized import replace_linears, scheme_of
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.roles import CONFIG_FILE, GENERATION_FILE, SPECIAL_FILE, TEMPLATE_FILE, Roles

CONFIG = "config.json"
_COMPUTED = ".rotary_emb.inv_freq"
"""Frequencies of rotations, which old folders of Llama store beside the weights."""
_TOGETHER = 1 << 28
"""Bytes that are read before a file is opened anew: as long as it is open, what was read stays in memory."""
TOKENIZER_FILES = (
    *("tokenizer.json", CONFIG_FILE, TEMPLATE_FILE, SPECIAL_FILE),
    *("tokenizer.model", "added_tokens.json", "vocab.json", "merges.txt"),
)
"""What a tokenizer may consist of; the first must be there."""


def save_model(
    folder: Path,
    model: Transformer,
    tokenizer_folder: Path | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a whole folder: configuration, weights as they are (fp32 as trained, or quantized), tokenizer
    and its template.

    What the config.json beside that tokenizer says for other tools stays said. `weights` are the model's,
    whole, where it holds but pieces of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(folder / WEIGHTS, as_stored(weights or model.state_dict()))
    special = copy_tokenizer(tokenizer_folder, folder) if tokenizer_folder else {}
    config = config_to_json(model.config, next(model.parameters()).dtype, special)
    if scheme := scheme_of(model):
        config["quantization_config"] = compressed_tensors.describe(scheme)
    if tokenizer_folder and (tokenizer_folder / CONFIG).is_file():
        config |= carried_over(read_json(tokenizer_folder / CONFIG), config)
    write_json(folder / CONFIG, config)
    write_json(folder / GENERATION_FILE, _generation_config(special, tokenizer_folder))


def load_model(
    folder: Path, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
) -> Transformer:
    """Load a folder written by us or by transformers; quantized ones get quantized layers.

    `dtype` is the format that activations are computed in; weights of a full-precision model are
    stored in it too.
    """
    folder = Path(folder)
    config = load_config(folder)
    quantized = read_json(folder / CONFIG).get("quantization_config")
    with torch.device("meta"):
        model = Transformer(config, compute_dtype=dtype)
    state = held_weights(folder, config, dtype)
    if quantized:
        scheme = compressed_tensors.read_scheme(quantized, folder)
        replace_linears(model, compressed_tensors.quantized_names(state, scheme), scheme)
    check_fit(folder, model.state_dict(), state)
    model.load_state_dict(state, assign=True)
    return model.to(device)


def load_config(folder: Path) -> ModelConfig:
    """Read a folder's config.json; what this project cannot run is refused by name."""
    path = Path(folder) / CONFIG
    if not path.exists():
        raise UserError(f"{folder} has no {CONFIG}: expected a Hugging Face model folder")
    return read_config(read_json(path), path)


def copy_tokenizer(source: Path, folder: Path) -> dict[str, Any]:
    """Copy the tokenizer's files, as many as there are, as they are; return its bos/eos/pad ids for
    config.json."""
    if not (source / TOKENIZER_FILES[0]).is_file():
        raise UserError(f"{source} has no {TOKENIZER_FILES[0]}: expected a tokenizer folder")
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and source.resolve() != folder.resolve():
            shutil.copyfile(source / name, folder / name)
    content, named = read_json(source / TOKENIZER_FILES[0]), Roles.read(source).named
    ids = dict(content["model"]["vocab"]) | {
        token["content"]: token["id"] for token in content["added_tokens"]
    }
    return {f"{role}_token_id": ids.get(named.get(f"{role}_token")) for role in ("bos", "eos", "pad")}


def _generation_config(special: Mapping[str, Any], source: Path | None) -> dict[str, Any]:
    """What the model's maker says of generation; else, stop at the end of a turn, and of the text too."""
    stated = source and source / GENERATION_FILE
    carried = read_json(stated) if stated and stated.is_file() else {}
    stops = [special.get(name) for name in ("eos_token_id", "pad_token_id")]
    if source and (more := Roles.read(source).stops):
        stops = [special["eos_token_id"], *more]
    kept = [stop for stop in dict.fromkeys(stops) if stop is not None]
    return {"do_sample": False, **carried, **special, "eos_token_id": kept or None}


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: t.detach().contiguous() for name, t in state.items()}, temporary, {"format": "pt"})


def held_weights(folder: Path, config: ModelConfig, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A folder's weights in the names of our network, in `dtype` (default: as stored), but integers and their
    scales as stored. Each is converted as it is read: memory holds the model once, and one tensor more."""
    return as_held(split_fused(own_weights(folder, config, dtype), config))


def own_weights(folder: Path, config: ModelConfig, dtype: torch.dtype | None) -> Iterator[tuple[str, Tensor]]:
    """A folder's (name, tensor) pairs as they lie there, one after the other, in `dtype` as above."""
    for path in weight_files(folder):
        for name, tensor in read_tensors(path):
            if config.tie_word_embeddings and name == "lm_head.weight":
                continue  # a copy of the embedding
            if name.endswith(_COMPUTED):
                continue
            exact = dtype is None or not tensor.is_floating_point() or "scale" in name
            yield name, tensor if exact else tensor.to(dtype)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file."""
    return dict(read_tensors(path))


def read_tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one file, one after the other."""
    try:
        with safe_open(path, framework="pt") as file:
            ahead = deque(file.keys())
        while ahead:
            left = _TOGETHER
            with safe_open(path, framework="pt") as file:
                while ahead and left > 0:
                    name = ahead.popleft()
                    tensor = file.get_tensor(name)
                    left -= tensor.nbytes
                    yield name, tensor
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise DamagedFile(f"{path} is truncated or no safetensors file: {error}") from error


def check_fit(folder: Path, model: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Refuse weights of a folder whose names or shapes are not those of the model's, `model`."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.items()}
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        raise UserError(
            f"{folder}: the weights do not fit config.json: {len(missing)} missing {missing[:3]}, "
            f"{len(unknown)} unknown {unknown[:3]}"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise UserError(
                f"{folder}: {name} has shape {tuple(state[name].shape)}, config.json implies {shape}"
            )

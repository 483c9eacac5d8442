"""The models that decoding is measured on: one set of random weights, as a Hugging Face folder and as GGUF.

The weights are rounded to bf16 before anything is written, so that all sides hold the same numbers. The GGUF
files are made by llama.cpp's own quantizer from the file that our exporter writes, so each has the types
that its users get (Q4_0 keeps the embedding in Q6_K). All is made once and kept in the user's cache.
"""

from __future__ import annotations

import ctypes
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modelwright.base.files import atomic_directory, canonical_json, sha256_text
from modelwright.base.native import cache_folder
from modelwright.compression.quantize import quantize
from modelwright.formats.gguf import write_gguf
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.config import ModelChoice, ModelConfig
from modelwright.model.init import initialize
from modelwright.model.quantized import Scheme
from modelwright.model.transformer import Transformer
from modelwright.tokenizer.learn import learn

MEDIUM = ModelConfig(
    architecture="llama",
    vocab_size=32_768,
    hidden_size=768,
    intermediate_size=2048,
    num_hidden_layers=14,
    num_attention_heads=12,
    num_key_value_heads=4,
    head_dim=64,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
)
"""113M parameters; all sizes are multiples of 256, so that every GGUF type can hold them."""
QUICKSTART = ModelChoice(depth=4).derive(8192)
"""The network of the quickstart recipe, with a larger vocabulary."""
CONFIGS = {"medium": MEDIUM, "quickstart": QUICKSTART}
SCHEMES = {"INT8": Scheme(8), "INT4": Scheme(4)}
TEXT_BYTES = 8_000_000


def model_folder(config: ModelConfig) -> Path:
    """A Hugging Face folder with random weights in bf16; made at the first call."""
    key = sha256_text(canonical_json(config.model_dump(mode="json")))[:16]
    folder = cache_folder() / "benchmarks" / f"decode-{key}"
    if not folder.exists():
        model = Transformer(config)
        initialize(model, 0)
        with atomic_directory(folder) as unfinished:
            learn(library_text(), config.vocab_size).save(unfinished)
            save_model(unfinished, model.to(torch.bfloat16), unfinished)
    return folder


def quantized_folder(folder: Path, format: str) -> Path:
    """The folder's model with weights in "INT8" or "INT4" by our own quantizer; made at the first call."""
    made = folder / format
    if not made.exists():
        with atomic_directory(made) as unfinished:
            save_model(unfinished, quantize(load_model(folder, torch.bfloat16), SCHEMES[format]), folder)
    return made


def library_text() -> Iterator[str]:
    """Text that every machine has: the sources of Python's own library."""
    size = 0
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = file.read_text(encoding="utf-8", errors="replace")
        yield text
        size += len(text)
        if size > TEXT_BYTES:
            return


def gguf_file(folder: Path, kind: str) -> Path:
    """The folder's model as "BF16", "Q8_0" or "Q4_0", by llama.cpp's quantizer; made at the first call."""
    import llama_cpp as package

    llama_cpp: Any = package
    path = folder / f"{kind}.gguf"
    if not path.exists():
        whole, unfinished = folder / "F32.gguf", folder / "unfinished.gguf"
        if not whole.exists():
            write_gguf(folder, whole, "f32")
        quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        paths = str(whole).encode(), str(unfinished).encode()
        if llama_cpp.llama_model_quantize(*paths, ctypes.byref(settings)) != 0:
            raise SystemExit(f"llama.cpp cannot make {path}")
        llama_cpp.llama_log_set(llama_cpp.llama_log_callback(), ctypes.c_void_p(0))
        unfinished.rename(path)
    return path

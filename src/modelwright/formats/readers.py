"""Programs that read what we export: our own, and independent ones that know nothing of ours.

All offer the three methods of `evaluation.verification.Reader`, so that verifying is one comparison. The
independent ones are optional; `why_missing` says what one lacks. llama.cpp's reader has its own file.
"""

from __future__ import annotations

import importlib.util
import io
import os
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modelwright.base.errors import DamagedFile
from modelwright.base.schema import Conversation
from modelwright.formats.config_json import rotations_to_json
from modelwright.formats.gguf_config import read_config
from modelwright.formats.gguf_file import GGUFFile
from modelwright.formats.gguf_names import TRANSFORMERS_READS_NO
from modelwright.formats.huggingface import load_config, load_model
from modelwright.model.config import ModelConfig
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render

TRANSFORMERS = "transformers"
LLAMA_CPP = "llama-cpp-python"
INSTALL = {TRANSFORMERS: "'modelwright[verify]'", LLAMA_CPP: "'modelwright[judges]'"}


def why_missing(reader: str, path: Path) -> str | None:
    """What this reader lacks to read `path`, most often a package, in words; None when all is there."""
    if reader == LLAMA_CPP:
        needed = ["llama_cpp"]
    else:
        needed = ["transformers"] if path.is_dir() else ["transformers", "accelerate"]
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (pip install {INSTALL[reader]})"
    if reader == TRANSFORMERS and path.is_file() and _architecture(path) in TRANSFORMERS_READS_NO:
        return f"transformers reads no GGUF files of {_architecture(path)}"
    return None


def _architecture(path: Path) -> str:
    """What a GGUF file states; "" where it is damaged, which its reader will say."""
    try:
        return str(GGUFFile(path).setting("general.architecture", str))
    except DamagedFile:
        return ""


def reader_version(reader: str) -> str:
    """The installed version of a reader's package."""
    try:
        return version(reader)
    except PackageNotFoundError:
        return "unknown"


class OwnReader:
    """Our model and tokenizer, in fp32: what the exported files are held against."""

    def __init__(self, folder: Path) -> None:
        self._model = load_model(folder, torch.float32).eval()
        self._tokenizer = BPETokenizer.load(folder)

    def tokenize(self, text: str) -> list[int]:
        """As training did."""
        return self._tokenizer.encode(text)

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """By our network."""
        return self._model(torch.tensor([list(ids)])).logits()[0]

    def render(self, conversation: Conversation) -> str:
        """By the function that training used, not by our template; by an imported one in our sandbox."""
        if self._tokenizer.imported is not None:
            return self._tokenizer.imported.text(conversation, True)
        return self._tokenizer.decode(render(self._tokenizer, conversation, add_generation_prompt=True).ids)


class TransformersReader:
    """transformers, on a Hugging Face folder or on a GGUF file (which it dequantizes to fp32)."""

    def __init__(self, path: Path) -> None:
        self._transformers = _quiet_transformers()
        with redirect_stderr(io.StringIO()):  # its progress bar for GGUF files has no switch
            if path.is_dir():
                tokenizer_class = self._tokenizer_class(load_config(path))
                self._tokenizer = tokenizer_class.from_pretrained(path, local_files_only=True)
                self._model = self._load(path)
            else:
                self._open_gguf(path)

    def _tokenizer_class(self, config: ModelConfig) -> Any:
        """AutoTokenizer, but for qwen2: there transformers 5 puts a class of its own in the place of the
        folder's tokenizer, one that normalizes text to NFC. The model card tells users the same."""
        ignores_the_folder = config.architecture == "qwen2"
        return getattr(
            self._transformers, "PreTrainedTokenizerFast" if ignores_the_folder else "AutoTokenizer"
        )

    def _open_gguf(self, path: Path) -> None:
        """In a folder of its own: from tokenizer files beside it transformers would read those instead.
        The class is the one that believes the file; those of single models have their regex built in."""
        with tempfile.TemporaryDirectory() as alone:
            (Path(alone) / path.name).symlink_to(path.resolve())
            source = {"gguf_file": path.name, "local_files_only": True}
            tokenizer_class = self._transformers.PreTrainedTokenizerFast
            self._tokenizer = tokenizer_class.from_pretrained(alone, **source)
            config = self._transformers.AutoConfig.from_pretrained(alone, **source)
            for name, value in _left_unread(path).items():
                setattr(config, name, value)
            self._model = self._load(Path(alone), config=config, **source)

    def _load(self, folder: Path, **source: Any) -> Any:
        model_class = self._transformers.AutoModelForCausalLM
        return model_class.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", **{"local_files_only": True} | source
        ).eval()

    def tokenize(self, text: str) -> list[int]:
        """By the tokenizer that the file describes."""
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    @torch.inference_mode()
    def logits(self, ids: Sequence[int]) -> Tensor:
        """By transformers' own network, with its plainest attention."""
        return self._model(torch.tensor([list(ids)])).logits[0].float()

    def render(self, conversation: Conversation) -> str:
        """By the template in the file."""
        return str(
            self._tokenizer.apply_chat_template(
                _messages(conversation), tokenize=False, add_generation_prompt=True
            )
        )


def _left_unread(path: Path) -> dict[str, Any]:
    """Settings that a GGUF file states and transformers 5.23 does not read: it takes defaults, which only fit
    some of the large models. The head's size for qwen2 and qwen3, an expert's for qwen3moe, and how rotations
    are stretched."""
    config = read_config(GGUFFile(path))
    found: dict[str, Any] = {"head_dim": config.head_dim, "rope_parameters": rotations_to_json(config)}
    return found | ({"moe_intermediate_size": config.moe_intermediate_size} if config.num_experts else {})


def _messages(conversation: Conversation) -> list[Any]:
    return [{"role": message.role, "content": message.content} for message in conversation.messages]


def _quiet_transformers() -> Any:
    """Import transformers without a word on the terminal and without a thought of the network."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers

"""llama.cpp as an independent reader of GGUF files, through the C functions of llama-cpp-python.

The package's own `Llama` class is not used: it has no switch for repacked weights, whose AMX kernels
crash the process on machines that announce AMX and do not grant it. The plain kernels are the better
judge of a file in any case.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.schema import Conversation


class _Log:
    """Takes llama.cpp's hundreds of lines off the terminal and keeps the last of them."""

    def __init__(self, library: Any) -> None:
        self._lines: deque[str] = deque(maxlen=200)

        def keep(level: int, text: bytes, user_data: Any) -> None:
            self._lines.append(text.decode(errors="replace").strip())

        self._callback = library.llama_log_callback(keep)  # C holds no reference: it must outlive the calls
        library.llama_log_set(self._callback, ctypes.c_void_p(0))
        _keep_alive.append(self)

    def complaint(self) -> str:
        """The first line that speaks of an error."""
        found = [line for line in self._lines if "error" in line.lower() or "fail" in line.lower()]
        return found[0] if found else "it did not say why"


_keep_alive: deque[_Log] = deque(maxlen=2)
"""The log in use: llama.cpp calls it until another one is set, even after its reader is gone."""


class LlamaCppReader:
    """A GGUF file as llama.cpp reads it. Implements `formats.readers.Reader`."""

    def __init__(self, path: Path, context: int = 512) -> None:
        import llama_cpp
        from llama_cpp import llama_chat_format  # type: ignore[attr-defined]

        self._library: Any = llama_cpp
        self._formatter: Any = llama_chat_format.Jinja2ChatFormatter
        self._context_size = context
        self._log = _Log(llama_cpp)
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers, settings.use_extra_bufts = 0, False
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise DamagedFile(f"llama.cpp cannot load {path}: {self._log.complaint()}")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._context = llama_cpp.llama_init_from_model(self._model, self._context_settings())
        if not self._context:
            raise UserError(f"llama.cpp has no memory for a context of {context} tokens of {path}.")

    def _context_settings(self) -> Any:
        settings = self._library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = self._context_size
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        # The cache is F16 by default, and its rounding would be judged as if it were the file's.
        settings.type_k = settings.type_v = self._library.GGML_TYPE_F32
        settings.flash_attn_type = self._library.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return settings

    def tokenize(self, text: str) -> list[int]:
        """By llama.cpp's own BPE and its own spelling of the split regex."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (self._library.llama_token * room)()
        count = self._library.llama_tokenize(self._vocabulary, raw, len(raw), ids, room, False, False)
        if count < 0:
            raise UserError(f"llama.cpp wants {-count} tokens for a text of {len(raw)} bytes: {text[:40]!r}")
        return list(ids[:count])

    def logits(self, ids: Sequence[int]) -> Tensor:
        """By ggml's kernels on the stored types."""
        n = len(ids)
        if n > self._context_size:
            raise UserError(f"{n} tokens do not fit llama.cpp's context of {self._context_size} tokens.")
        library = self._library
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        tokens, wanted = (library.llama_token * n)(*ids), (ctypes.c_int8 * n)(*[1] * n)
        batch = library.llama_batch_get_one(tokens, n)
        batch.logits = ctypes.cast(wanted, ctypes.POINTER(ctypes.c_int8))
        if library.llama_decode(self._context, batch) != 0:
            raise UserError(f"llama.cpp refused a sequence of {n} tokens: {self._log.complaint()}")
        size = library.llama_vocab_n_tokens(self._vocabulary)
        values = np.ctypeslib.as_array(library.llama_get_logits(self._context), shape=(n, size))
        return torch.from_numpy(values.astype(np.float32, copy=True))

    def render(self, conversation: Conversation) -> str:
        """By the template in the file."""
        template = self._library.llama_model_chat_template(self._model, None)
        if template is None:
            raise UserError("the GGUF file carries no chat template (key tokenizer.chat_template).")
        messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
        library, vocabulary = self._library, self._vocabulary
        eos, bos = library.llama_vocab_eos(vocabulary), library.llama_vocab_bos(vocabulary)
        formatter = self._formatter(template.decode(), self._spelled(eos), self._spelled(bos))
        return str(formatter(messages=messages).prompt)

    def _spelled(self, token: int) -> str:
        return self._library.llama_vocab_get_text(self._vocabulary, token).decode() if token >= 0 else ""

    def close(self) -> None:
        """Give the memory back; safe to call twice."""
        context, model = getattr(self, "_context", None), getattr(self, "_model", None)
        self._context = self._model = None
        if context:
            self._library.llama_free(context)
        if model:
            self._library.llama_model_free(model)

    __del__ = close

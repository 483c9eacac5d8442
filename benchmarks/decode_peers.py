"""The peers that decoding is measured against, each through its public interface, at the settings given.

Both continue prompts greedily and tell prefill and decode apart, as `inference.measure.time_phases` does for
our engine.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modelwright.inference.measure import Phases

WIDEST_PROMPT, LONGEST_ANSWER = 64, 256
"""Of the rollouts."""


class Transformers:
    """transformers' model in a loop of its own forward passes, without the overhead of `generate`. What is
    compiled is the step of one token; it needs a static cache, lest it be compiled for every length."""

    def __init__(
        self,
        folder: Path,
        *,
        attention: str = "sdpa",
        compiled: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
    ) -> None:
        import transformers  # seconds that the other sides' processes are spared

        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, attn_implementation=attention
        )
        self.model = model.to(device).eval()
        self.facts = {"weights": float(sum(p.numel() * p.element_size() for p in model.parameters()))}
        self._cache: Any = transformers.StaticCache if compiled else transformers.DynamicCache
        self._static = compiled
        self._decode: Any = torch.compile(self.model, dynamic=False) if compiled else self.model

    @torch.inference_mode()
    def time_phases(self, prompts: Sequence[Sequence[int]], tokens: int) -> Phases:
        """Continue prompts of one length by `tokens` tokens each."""
        ids = torch.tensor(prompts, device=self.model.device)
        sizes = {"max_cache_len": ids.shape[1] + tokens} if self._static else {}
        cache = self._cache(config=self.model.config, **sizes)
        start = time.perf_counter()
        best = self._best(self.model, ids, cache, 0)
        all_started = time.perf_counter()
        for number in range(tokens - 1):
            best = self._best(self._decode, best, cache, ids.shape[1] + number)
        ended = time.perf_counter()
        return Phases(all_started - start, ended - all_started, len(prompts) * (tokens - 1))

    def _best(self, forward: Any, ids: Tensor, cache: Any, position: int) -> Tensor:
        """(B, 1) most likely next tokens; on a GPU they stay there, but each step is waited for."""
        places = torch.arange(position, position + ids.shape[1], device=ids.device)[None]
        logits = forward(
            input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits
        best = logits[:, -1].argmax(-1, keepdim=True)
        best.tolist()  # whoever serves must see every token
        return best

    @torch.inference_mode()
    def rollouts(self, prompts: Sequence[Sequence[int]], lengths: Sequence[int], rows: int = 64) -> float:
        """Seconds of `generate` for prompts of unequal length, padded left, `rows` at a time, sampled; each
        batch goes on until its longest answer has ended."""
        start = time.perf_counter()
        for first in range(0, len(prompts), rows):
            part = prompts[first : first + rows]
            # What is compiled knows one width of prompts and one size of the cache.
            width = WIDEST_PROMPT if self._static else max(map(len, part))
            ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in part])
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
            self._generate(ids, mask, max(lengths[first : first + rows]))
        return time.perf_counter() - start

    def _generate(self, ids: Tensor, mask: Tensor, tokens: int) -> None:
        """`generate` until `tokens` more have been drawn."""
        import transformers

        room = {"max_new_tokens": tokens}
        if self._static:
            stop = transformers.MaxLengthCriteria(ids.shape[1] + tokens)
            room = {
                "max_new_tokens": LONGEST_ANSWER,
                "stopping_criteria": transformers.StoppingCriteriaList([stop]),
                "cache_implementation": "static",
            }
            if self.model.forward != self._decode:
                self.model.forward = self._decode = torch.compile(self.model.forward, dynamic=False)
        self.model.generate(
            input_ids=ids.to(self.model.device),
            attention_mask=mask.to(self.model.device),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            eos_token_id=None,
            pad_token_id=0,
            **room,
        )


@cache
def repacked_kernels_work(path: Path) -> bool:
    """Whether llama.cpp's kernels for repacked weights run here: tried in a process of its own. Built by GCC
    12 for a processor with AMX they crash, since that compiler drops the stores of their tile settings."""
    done = subprocess.run([sys.executable, __file__, str(path)], check=False, capture_output=True)
    return done.returncode == 0


class LlamaCpp:
    """llama.cpp through the C functions of llama-cpp-python; `repacked` None finds out whether that works."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        context: int,
        sequences: int = 1,
        flash: bool = True,
        repacked: bool | None = None,
    ) -> None:
        import llama_cpp as package

        llama_cpp: Any = package
        repacked = repacked_kernels_work(path) if repacked is None else repacked
        self._library = llama_cpp
        self._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self._quiet, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        settings = llama_cpp.llama_model_default_params()
        settings.n_gpu_layers, settings.use_extra_bufts = 0, repacked
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        size = float(llama_cpp.llama_model_size(self._model))
        self.facts = {"weights": size, "repacked": float(repacked)}
        self._context = llama_cpp.llama_init_from_model(
            self._model, self._settings(threads, context, sequences, flash)
        )
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def _settings(self, threads: int, context: int, sequences: int, flash: bool) -> Any:
        library = self._library
        settings = library.llama_context_default_params()
        settings.n_ctx = settings.n_batch = context * sequences
        settings.n_seq_max = sequences
        settings.n_threads = settings.n_threads_batch = threads
        settings.flash_attn_type = getattr(
            library, f"LLAMA_FLASH_ATTN_TYPE_{'ENABLED' if flash else 'DISABLED'}"
        )
        return settings

    def time_phases(self, prompts: Sequence[Sequence[int]], tokens: int) -> Phases:
        """Continue prompts of one length by `tokens` tokens each."""
        library, count, length = self._library, len(prompts), len(prompts[0])
        whole = self._batch([list(prompt) for prompt in prompts], 0, count * length)
        step = self._batch([[0] for _ in prompts], length, count)
        library.llama_memory_clear(library.llama_get_memory(self._context), True)
        start = time.perf_counter()
        best = self._best(whole, count)
        all_started = time.perf_counter()
        ids = np.ctypeslib.as_array(step.token, shape=(count,))
        places = np.ctypeslib.as_array(step.pos, shape=(count,))
        for _ in range(tokens - 1):
            ids[:] = best
            best = self._best(step, count)
            places += 1
        ended = time.perf_counter()
        library.llama_batch_free(whole)
        library.llama_batch_free(step)
        return Phases(all_started - start, ended - all_started, count * (tokens - 1))

    def _batch(self, rows: list[list[int]], position: int, size: int) -> Any:
        """The rows one behind the other, each a sequence of its own; logits at each row's end."""
        batch = self._library.llama_batch_init(size, 0, 1)
        batch.n_tokens = size
        place = 0
        for sequence, row in enumerate(rows):
            for offset, token in enumerate(row):
                batch.token[place], batch.pos[place] = token, position + offset
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
                batch.logits[place] = offset == len(row) - 1
                place += 1
        return batch

    def _best(self, batch: Any, outputs: int) -> np.ndarray:
        """(outputs,) most likely next tokens."""
        if self._library.llama_decode(self._context, batch) != 0:
            raise SystemExit("llama.cpp refused a batch")
        logits = self._library.llama_get_logits(self._context)
        return np.ctypeslib.as_array(logits, shape=(outputs, self._vocabulary)).argmax(axis=1)


if __name__ == "__main__":
    LlamaCpp(Path(sys.argv[1]), threads=1, context=64, repacked=True).time_phases([[1] * 32], 2)

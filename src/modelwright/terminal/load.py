"""A model ready to be asked, and the line that says which one it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelwright.base.device import choose
from modelwright.formats.locate import Identity, identify, resolve_model
from modelwright.formats.open_model import open_model
from modelwright.inference.engine import Engine
from modelwright.inference.speculate import Speculation
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
    def chats(self) -> bool:
        """Whether it takes turns: it was taught them here, or came with a chat template of its own."""
        return bool(self.tokenizer.chat_template) and (self.about.chats or self.tokenizer.chats)

    @property
    def line(self) -> str:
        """Path, stage, size, what it computes in, and id in one line."""
        count = Shape.of(self.model.config).parameters  # quantized weights are no parameters to torch
        size = f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}K"
        dtype = str(self.model.compute_dtype).removeprefix("torch.")
        return f"{self.about.path} · {self.about.role} · {size} parameters · {dtype} · {self.about.short_id}"


def load(
    model_path: Path | str,
    device: str = "cpu",
    *,
    dtype: str = "float32",
    slots: int = 1,
    stop_ids: Sequence[int] | None = None,
    speculate: str | None = None,
    guesses: int | None = None,
) -> Loaded:
    """Load what `model_path` points at for `slots` conversations at a time; `dtype` may be "auto", and
    `speculate` "ngram" or the path of a draft model."""
    chosen = choose(device, dtype)
    model, tokenizer = open_model(model_path, chosen)
    speculation = Speculation.of(speculate, guesses, partial(open_model, device=chosen))
    engine = Engine(
        model, tokenizer, max_slots=slots, stop_ids=stop_ids, speculate=speculation, owns_model=True
    )
    return Loaded(engine, model, tokenizer, identify(resolve_model(model_path)))

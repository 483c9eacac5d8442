"""Answers of a model while other stages work on it: the engine, as the Sampler that a run gives them.

Who lives a station hands `sampler_of` to its Run (base/run.py), so a stage that trains asks for answers and
sees a Sampler: it is read, and tested, without the engine. The plain path is taken: the weights change from
one time to the next, and layers may be wrapped (adapters), which compiled steps would not see.
"""

from __future__ import annotations

from modelwright.base.seams import Sampler
from modelwright.inference.engine import Engine
from modelwright.inference.text import ByteTokenizer
from modelwright.model.transformer import Transformer


def sampler_of(model: Transformer, tokenizer: ByteTokenizer, slots: int) -> Sampler:
    """Answers with the weights as they are now, `slots` prompts at a time."""
    return Engine(model, tokenizer, max_slots=slots, use_compiled=False)

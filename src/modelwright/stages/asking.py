"""How problems are put to a model: through its chat template, or as bare text that begins like a document."""

from __future__ import annotations

from collections.abc import Sequence

from modelwright.base.schema import Conversation, Message
from modelwright.evaluation.generation import Prompts
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render


def prompts_of(tokenizer: BPETokenizer) -> Prompts:
    """The prompts of whatever asks a model: evaluations, and comparisons before and after a training."""

    def chat(messages: Sequence[Message]) -> list[int]:
        conversation = Conversation(messages=tuple(messages))
        return render(tokenizer, conversation, add_generation_prompt=True).ids

    return Prompts(chat=chat, text=tokenizer.begin, encode=tokenizer.encode)

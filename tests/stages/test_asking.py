"""How problems are put to a model."""

from __future__ import annotations

from pathlib import Path

from tests.tokenizer.families import FAMILIES

from modelwright.base.schema import Message, Problem
from modelwright.stages.asking import prompts_of
from modelwright.tokenizer.bpe import BPETokenizer


def test_a_bare_text_begins_as_the_model_is_used_to_and_turns_go_through_its_template(tmp_path: Path) -> None:
    FAMILIES["llama-3"].write(tmp_path)
    tokenizer = BPETokenizer.load(tmp_path)
    prompts = prompts_of(tokenizer)
    turns = (Message(role="user", content="The capital of France is"),)
    text, chat = (
        prompts.ids(Problem(id="1", prompt=prompt, verifier="prefix", target=["Paris"], split="test"))
        for prompt in (turns[0].content, turns)
    )
    assert tokenizer.bos_id is not None and text == [tokenizer.bos_id, *prompts.encode(turns[0].content)]
    assert chat[0] == tokenizer.bos_id and len(chat) > len(text)
    assert "assistant" in tokenizer.decode(chat[len(text) :])

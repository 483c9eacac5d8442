"""For any text: nothing is lost, nothing special appears, batches change nothing."""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from modelwright.base.schema import Conversation, Message
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.learn import learn

UNICODE = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SPECIAL = st.sampled_from(["<|im_end|>", "<|im_start|>user\n", "<|endoftext|>", " \r\n\n", "\u0130ss"])
TEXT = st.lists(st.one_of(UNICODE, SPECIAL), max_size=4).map("".join)


@cache
def tokenizer() -> BPETokenizer:
    return learn(["<|im_end|> user's text: 漢字 — naïve, 12,345.6 \n\n\tx = y ** 2\r\n 😀😀" * 12], 400)


@given(TEXT)
@settings(max_examples=150, deadline=None)
def test_text_comes_back_whole_and_plain(text: str) -> None:
    ids = tokenizer().encode(text)
    assert tokenizer().decode(ids) == text
    assert not set(ids) & set(tokenizer().special_ids.values())
    assert sum(tokenizer().byte_lengths[i] for i in ids) == len(text.encode())
    assert tokenizer().encode_batch([text, "x"]) == [ids, tokenizer().encode("x")]


@given(TEXT, TEXT)
@settings(max_examples=80, deadline=None)
def test_the_mask_is_the_answer_and_its_end(question: str, answer: str) -> None:
    messages = (Message(role="user", content=question), Message(role="assistant", content=answer))
    rendered = render(tokenizer(), Conversation(messages=messages))
    kept = [token for token, counts in zip(rendered.ids, rendered.mask, strict=True) if counts]
    assert kept[-1] == tokenizer().end_of_turn_id
    assert tokenizer().decode(kept[:-1]) == answer.strip()
    assert rendered.ids.count(tokenizer().end_of_turn_id) == 2

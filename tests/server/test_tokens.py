"""Between text and ids over HTTP, byte by byte."""

from __future__ import annotations

from modelwright.base.schema import Conversation, Message
from modelwright.tokenizer.chat import render


def test_texts_and_ids_go_both_ways(http, tokenizer):
    text = "Paris, Österreich \n👍"
    got = http.post("/tokenize", json={"prompt": text, "model": "tiny", "return_token_strs": True}).json()
    assert got["tokens"] == tokenizer.encode(text) and got["count"] == len(got["tokens"])
    assert got["max_model_len"] == 4096 and len(got["token_strs"]) == got["count"]
    assert http.post("/detokenize", json={"tokens": got["tokens"]}).json() == {"prompt": text}


def test_pieces_say_bytes_where_a_token_is_part_of_a_character(http, tokenizer):
    ids = tokenizer.encode("a👍")
    for answer in (
        http.post("/tokenize", json={"prompt": "a👍", "with_pieces": True}).json(),
        http.post("/detokenize", json={"tokens": ids, "with_pieces": True}).json(),
    ):
        pieces = answer["pieces"]
        assert [piece["id"] for piece in pieces] == ids
        assert pieces[0] == {"id": ids[0], "text": "a", "bytes": [97]}
        assert [piece["text"] for piece in pieces[1:]] == [None] * 4  # the four bytes of the thumb
        assert bytes(byte for piece in pieces for byte in piece["bytes"]).decode() == "a👍"


def test_a_conversation_as_the_template_writes_it(http, tokenizer):
    asked = {"messages": [{"role": "user", "content": "Wien"}]}
    turns = Conversation(messages=(Message(role="user", content="Wien"),))
    for generating in (True, False):
        got = http.post("/tokenize", json=asked | {"add_generation_prompt": generating}).json()
        assert got["tokens"] == render(tokenizer, turns, add_generation_prompt=generating).ids


def test_special_tokens_in_a_text_stay_text(http, tokenizer):
    ids = http.post("/tokenize", json={"prompt": "<|im_end|>"}).json()["tokens"]
    assert not set(ids) & set(tokenizer.special_ids.values())


def test_refusals(http):
    for body in ({}, {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}):
        assert http.post("/tokenize", json=body).status_code == 400
    for tokens in ([320], [-1], [2**40], ["a"], [1.5], "5"):
        refused = http.post("/detokenize", json={"tokens": tokens})
        assert refused.status_code == 400 and refused.json()["error"]["param"].startswith("tokens")
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}

"""Our chat template against transformers, which renders the Jinja text and tokenizes the result."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.schema import Conversation, Message, Role
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.learn import learn

transformers = pytest.importorskip("transformers")

WHITE_SPACE = ["", " ", "\n", "\r\n", " \n \n", "\t", "\u00a0", "\u2028", "\x1c", "\u3000\n"]
WORDS = ["Hello", "'s", "!\n", "12", "é", "日本", "😀", "\u0301x", "\x00", "\u200b\n"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[BPETokenizer, Any]:
    ours = learn(["user\nassistant\nsystem\n\n Hello there!\n\n It's 12 o'clock.\r\n\r\n" * 20], 340)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return ours, transformers.AutoTokenizer.from_pretrained(folder)


def theirs(tokenizer: Any, messages: Iterable[Message], add_generation_prompt: bool = False) -> list[int]:
    rows = [{"role": message.role, "content": message.content} for message in messages]
    ids = tokenizer.apply_chat_template(
        rows, tokenize=True, return_dict=True, add_generation_prompt=add_generation_prompt
    )["input_ids"]
    return list(ids)


def test_multi_turn_with_system_and_odd_white_space(pair: tuple[BPETokenizer, Any]) -> None:
    ours, other = pair
    for front in WHITE_SPACE:
        for index, word in enumerate(WORDS):
            back = WHITE_SPACE[(index + 3) % len(WHITE_SPACE)]
            roles: tuple[Role, ...] = ("system", "user", "assistant", "user", "assistant", "tool")
            messages = tuple(
                Message(role=role, content=f"{front}{word}{turn}{back}") for turn, role in enumerate(roles)
            )
            for ask in (False, True):
                rendered = render(ours, Conversation(messages=messages), add_generation_prompt=ask)
                assert theirs(other, messages, ask) == rendered.ids, repr((front, word, back))


def test_real_conversations(pair: tuple[BPETokenizer, Any], shared_data: Path) -> None:
    ours, other = pair
    with gzip.open(shared_data / "oasst_trees" / "sft_messages.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line)["messages"] for line in file][::9]
    for row in rows:
        messages = tuple(Message(role=m["role"], content=m["content"]) for m in row)
        assert theirs(other, messages) == render(ours, Conversation(messages=messages)).ids
    assert len(rows) > 50


def test_transformers_reads_the_folder_as_we_do(pair: tuple[BPETokenizer, Any]) -> None:
    ours, other = pair
    assert len(other) == ours.vocab_size
    assert (other.eos_token_id, other.pad_token_id, other.bos_token_id) == (ours.eos_id, ours.pad_id, None)
    assert other.chat_template == ours.chat_template
    for text in ("It's 12 o'clock.\n\n  é 😀", " , .", "don 't ?"):
        ids = ours.encode(text)
        assert other(text)["input_ids"] == ids
        assert other.decode(ids) == text

"""Talking in the terminal, with a random tiny model: what it says is noise, how it behaves is not."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from modelwright.base.device import choose
from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Message, Sampling
from modelwright.inference.engine import PromptTooLong
from modelwright.terminal.chat import BASE_ONLY, Chat, chat
from modelwright.terminal.load import Loaded, load
from modelwright.tokenizer.chat import render

SAMPLING = Sampling(max_tokens=8, temperature=1.0, seed=4)


@pytest.fixture(scope="module")
def loaded(tiny_model) -> Loaded:
    return load(tiny_model())


def test_an_answer_is_the_engines_own_on_the_rendered_conversation(loaded):
    talk = Chat(loaded, SAMPLING, system="Be brief.")
    first = "".join(talk.say("Hello"))
    turns = [Message(role="system", content="Be brief."), Message(role="user", content="Hello")]
    ids = render(loaded.tokenizer, Conversation(messages=tuple(turns)), add_generation_prompt=True).ids
    assert first == loaded.engine.sample([ids], SAMPLING)[0].text
    second = "".join(talk.say("And?"))
    turns += [Message(role="assistant", content=first), Message(role="user", content="And?")]
    ids = render(loaded.tokenizer, Conversation(messages=tuple(turns)), add_generation_prompt=True).ids
    assert second == loaded.engine.sample([ids], replace(SAMPLING, seed=5))[0].text


def test_reset_forgets_and_system_sets(loaded):
    fresh = "".join(Chat(loaded, Sampling(max_tokens=8)).say("Hello"))
    talk = Chat(loaded, Sampling(max_tokens=8), system="x")
    list(talk.say("Something else"))
    assert talk.command("/reset") == "forgotten"
    assert "removed" in talk.command("/system")
    assert "".join(talk.say("Hello")) == fresh
    assert "unknown command '/sytem'" in talk.command("/sytem y")
    listed = talk.command("/help")
    assert "unknown" not in listed and all(name in listed for name in ("/system TEXT", "/reset", "/exit"))


def test_a_stopped_answer_frees_the_engine_and_stays_in_the_conversation(loaded):
    talk = Chat(loaded, Sampling(max_tokens=60, temperature=1.0, seed=1))
    answer = talk.say("Hello")
    piece = next(answer)
    answer.close()
    assert not loaded.engine._scheduler.busy
    assert [turn.content for turn in talk._turns] == ["Hello", piece]


def test_old_turns_go_when_the_context_is_full(loaded):
    talk = Chat(loaded, Sampling(max_tokens=8, temperature=1.0, seed=2))
    for number in range(12):
        assert list(talk.say(f"line {number}"))
    assert 2 <= len(talk._turns) < 24 and talk._turns[-2].content == "line 11"
    with pytest.raises(PromptTooLong, match="Say it shorter"):
        list(talk.say("too long " * 60))
    assert talk._turns[-2].content == "line 11"


def say_piped(monkeypatch, folder, lines: str) -> str:
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    console = Console(file=io.StringIO(), record=True, width=100)
    chat(folder, Sampling(max_tokens=4), console=console)
    return console.export_text()


def test_piped_lines_are_answered_and_the_model_is_named(monkeypatch, tiny_model):
    folder = tiny_model()
    shown = say_piped(monkeypatch, folder, "Hello\n\n/nothing\n/reset\n/exit\nnever read\n")
    assert str(folder) in shown and "parameters" in shown and "no manifest" in shown
    assert str(choose().dtype).removeprefix("torch.") in shown, "what it computes in is said"
    assert "unknown command '/nothing'" in shown and "forgotten" in shown and BASE_ONLY not in shown


def test_the_end_of_input_ends_the_chat(monkeypatch, tiny_model):
    assert "parameters" in say_piped(monkeypatch, tiny_model(), "Hello\n")


def test_nothing_there_is_an_error_with_names(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        chat(tmp_path / "absent")

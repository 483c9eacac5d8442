"""The journal of answers: nothing that came is asked again, whatever became of the file."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from modelwright.base.schema import Answer, Conversation, Message, Prompt, Sampling
from modelwright.data.synthesis.journal import Journal


def prompt(text: str, seed: int = 0) -> Prompt:
    talk = Conversation(messages=(Message(role="user", content=text),))
    return Prompt(conversation=talk, sampling=Sampling(seed=seed))


class Echo:
    """Says what it is asked, in two tokens."""

    def __init__(self, name: str = "echo") -> None:
        self.name, self.asked = name, 0

    def write(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Backwards."""
        for place in reversed(range(len(prompts))):
            self.asked += 1
            said = prompts[place].conversation.messages[0].content
            yield place, Answer(text=said, tokens=2, prompt_tokens=1, seconds=0.1)


def test_equal_prompts_are_asked_once_and_other_writers_are_asked_anew(tmp_path: Path) -> None:
    wanted = [prompt("a"), prompt("b"), prompt("a"), prompt("a", seed=1)]
    for writer, asked in ((Echo(), 3), (Echo(), 0), (Echo("another"), 3)):
        journal = Journal(tmp_path / "answers.jsonl", writer)
        found = dict(journal.answers(wanted))
        journal.close()
        assert [found[place].text for place in range(4)] == ["a", "b", "a", "a"]
        assert (writer.asked, journal.asked, journal.tokens, journal.prompt_tokens) == (asked, 3, 6, 3)


@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_journal_costs_the_lines_that_are_damaged(noise: bytes, cut: int) -> None:
    with TemporaryDirectory() as folder:
        check_damaged(Path(folder) / "answers.jsonl", noise, cut)


def check_damaged(path: Path, noise: bytes, cut: int) -> None:
    wanted = [prompt(letter) for letter in "abc"]
    journal = Journal(path, Echo())
    list(journal.answers(wanted))
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - cut] + b"\n" + noise if cut < len(whole) else noise)
    writer = Echo()
    journal = Journal(path, writer)
    assert {answer.text for _, answer in journal.answers(wanted)} == set("abc")
    journal.close()
    assert writer.asked <= 3
    again = Echo()
    journal = Journal(path, again)
    assert len(dict(journal.answers(wanted))) == 3 and again.asked == 0, "what is there now is read again"
    journal.close()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.data.synthesis.test_journal import Echo, prompt
from modelwright.data.synthesis.journal import Journal
journal = Journal(Path(sys.argv[1]), Echo())
for count, _ in enumerate(journal.answers([prompt(str(n)) for n in range(9)]), 1):
    if count == 4:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_process_loses_no_answer_that_it_had(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=root, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    writer = Echo()
    journal = Journal(path, writer)
    assert len(dict(journal.answers([prompt(str(n)) for n in range(9)]))) == 9 and writer.asked == 5
    journal.close()

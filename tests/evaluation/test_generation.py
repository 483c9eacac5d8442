from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from modelwright.base.schema import Completion, Message, Problem, Sampling, Score
from modelwright.environments.verify import verify
from modelwright.evaluation.generation import Prompts, graded, run_task, write_samples


class Parrot:
    """A canned sampler: answers with the prompt's own text, and prefers small ids."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        self.asked = [list(prompt) for prompt in prompts]
        return [
            Completion(
                ids=tuple(prompt), logprobs=(-1.0,), text="".join(map(chr, prompt)), finish_reason="stop"
            )
            for prompt in prompts
        ]

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        return [[-float(token) for token in ids[1:]] for ids in sequences]

    def update_weights(self, state: Mapping[str, torch.Tensor], version: int) -> None: ...


class Anything:
    NAME = "anything"
    DESCRIPTION = "Whatever."

    def problems(self, seed: int, limit: int | None = None) -> list[Problem]:
        return []

    def score(self, problem: Problem, text: str) -> Score:
        return verify(problem, text)


def letters(text: str) -> list[int]:
    return [ord(letter) for letter in text]


PROMPTS = Prompts(
    chat=lambda messages: letters(f"<{messages[-1].content}>"),
    text=lambda text: letters(text),
    encode=letters,
)


def problem(name: str, prompt: str | tuple[Message, ...], verifier: str, target: object) -> Problem:
    return Problem(id=name, prompt=prompt, verifier=verifier, target=target, split="test")


PROBLEMS = [
    problem("chat", (Message(role="user", content="say Paris"),), "answer", ["Paris"]),
    problem("choice", "it is", "choice", {"choices": [" zz", " aa"], "answer": 1}),
    problem("prefix", "Oslo it is", "prefix", ["Oslo"]),
    problem("broken", "?", "number", "12"),
]


def test_answers_come_back_in_order_and_scored() -> None:
    sampler = Parrot()
    rollouts = run_task(Anything(), PROBLEMS, sampler, PROMPTS, Sampling())
    assert [rollout.problem.id for rollout in rollouts] == ["chat", "choice", "prefix", "broken"]
    assert [rollout.score.value for rollout in rollouts] == [1, 1, 1, None]
    assert rollouts[0].completion.text == "<say Paris>"
    assert rollouts[1].completion.text == " aa"
    assert len(sampler.asked) == 3


def test_ungraded_is_left_out_and_never_zero() -> None:
    rollouts = run_task(Anything(), PROBLEMS, Parrot(), PROMPTS, Sampling())
    assert graded(rollouts) == {"chat": 1.0, "choice": 1.0, "prefix": 1.0}


def test_every_sample_is_kept_with_its_reason(tmp_path: Path) -> None:
    rollouts = run_task(Anything(), PROBLEMS, Parrot(), PROMPTS, Sampling())
    write_samples(tmp_path / "deep" / "anything.jsonl", rollouts)
    rows = [json.loads(line) for line in (tmp_path / "deep" / "anything.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [problem.id for problem in PROBLEMS]
    assert rows[0]["prompt"] == [{"role": "user", "content": "say Paris"}]
    assert rows[0]["ids"] == letters("<say Paris>")
    assert rows[3]["score"] is None and "ungraded" in rows[3]["reason"]
    assert all(row["reason"] and row["finish_reason"] for row in rows)


def test_nothing_to_ask() -> None:
    assert run_task(Anything(), [], Parrot(), PROMPTS, Sampling()) == []

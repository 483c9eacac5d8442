"""Running a task through a sampler: every problem asked, every answer scored, every sample kept.

Evaluation sees a `Sampler` and two callables, never the engine or the tokenizer: a stage wires them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.files import atomic_path
from modelwright.base.schema import Completion, Message, Problem, Rollout, Sampling
from modelwright.base.seams import Sampler
from modelwright.environments.task import Task
from modelwright.evaluation.likelihood import ChoiceScore, score_choices


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """How prompts become ids."""

    chat: Callable[[Sequence[Message]], list[int]]
    """Messages -> ids that end where the assistant's answer begins (the chat template)."""
    text: Callable[[str], list[int]]
    """A bare prefix -> ids, as a document begins in training."""
    encode: Callable[[str], list[int]]
    """Plain text -> ids, nothing added."""

    def ids(self, problem: Problem) -> list[int]:
        """The ids of a problem's prompt."""
        return self.text(problem.prompt) if isinstance(problem.prompt, str) else self.chat(problem.prompt)


def run_task(
    task: Task, problems: Sequence[Problem], sampler: Sampler, prompts: Prompts, sampling: Sampling
) -> list[Rollout]:
    """One attempt at each problem, in order. Problems with the verifier "choice" are decided by
    likelihood (the text of the likeliest choice counts as the answer), all others by generation."""
    by_choice = [problem for problem in problems if problem.verifier == "choice"]
    generated = [problem for problem in problems if problem.verifier != "choice"]
    answers = dict(zip(map(_key, by_choice), _choose(by_choice, sampler, prompts), strict=True))
    completions = sampler.sample([prompts.ids(problem) for problem in generated], sampling)
    answers.update(zip(map(_key, generated), completions, strict=True))
    return [
        Rollout(problem=problem, completion=done, score=task.score(problem, done.text))
        for problem, done in ((problem, answers[_key(problem)]) for problem in problems)
    ]


def _key(problem: Problem) -> int:
    return id(problem)


def _choose(problems: Sequence[Problem], sampler: Sampler, prompts: Prompts) -> Iterator[Completion]:
    choices = [[str(text) for text in problem.target["choices"]] for problem in problems]
    scored = score_choices(sampler, [prompts.ids(problem) for problem in problems], choices, prompts.encode)
    for texts, found in zip(choices, scored, strict=True):
        yield _as_completion(texts[found.best], found, prompts)


def _as_completion(text: str, found: ChoiceScore, prompts: Prompts) -> Completion:
    return Completion(
        ids=tuple(prompts.encode(text)),
        logprobs=(found.log_likelihoods[found.best],),
        text=text,
        finish_reason="stop",
    )


def graded(rollouts: Iterable[Rollout]) -> dict[str, float]:
    """Problem id -> score, without the ungraded ones: a fault of the check is no wrong answer."""
    return {
        rollout.problem.id: rollout.score.value for rollout in rollouts if rollout.score.value is not None
    }


def write_samples(path: Path, rollouts: Iterable[Rollout]) -> None:
    """Every attempt as a line of JSON: prompt, completion, ids, score, reason."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", errors="replace") as file:
        for rollout in rollouts:
            file.write(json.dumps(describe(rollout), ensure_ascii=False, default=str) + "\n")


def describe(rollout: Rollout) -> dict[str, Any]:
    """A rollout as plain data."""
    problem, completion = rollout.problem, rollout.completion
    prompt: str | list[Mapping[str, str]]
    if isinstance(problem.prompt, str):
        prompt = problem.prompt
    else:
        prompt = [{"role": message.role, "content": message.content} for message in problem.prompt]
    return {
        "id": problem.id,
        "prompt": prompt,
        "verifier": problem.verifier,
        "target": problem.target,
        "split": problem.split,
        "completion": completion.text,
        "ids": list(completion.ids),
        "logprob": sum(completion.logprobs),
        "finish_reason": completion.finish_reason,
        "score": rollout.score.value,
        "reason": rollout.score.reason,
    }

"""A request in other words, mended, or harder; and which of what comes back is no such thing.

Ways that keep what is asked (`paraphrase`, `clean`) keep the right answer, so that a verifier of the old
request judges the answers to the new one. The others are those of Evol-Instruct (WizardLM, arXiv 2304.12244):
in depth (constraints, deepening, concretizing, more steps) and in breadth (another request of the same
field). After the paper's elimination: what gained nothing, what repeats the words of the prompt, and what is
empty goes; answers that apologise are looked for in `rows`. The paper asks a model whether something was
gained; ROUGE-L is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from pydantic import Field

from modelwright.base.config import Config
from modelwright.base.errors import UserError
from modelwright.base.schema import Answer, Conversation, Message, Reason
from modelwright.data.decontaminate.index import Index
from modelwright.data.synthesis.method import Ask, Candidate, Most, letters_of
from modelwright.data.synthesis.novelty import rouge_l, words_of
from modelwright.data.synthesis.quoting import NEVER_AN_ORDER, quoted
from modelwright.data.synthesis.requests import RequestRules, Requests, read_request
from modelwright.data.synthesis.taken import ANSWERING, Taken
from modelwright.data.synthesis.tasks import Task

Way = Literal["paraphrase", "clean", "constrain", "deepen", "concretize", "reason", "broaden"]

WAYS: Mapping[Way, str] = {
    "paraphrase": "Say the same in other words, as another person would. Every fact and number stays; "
    "nothing more and nothing less is asked.",
    "clean": "Mend its spelling, grammar and layout, and take out what does not belong to it. What it asks "
    "stays the same; so does the wording where nothing is wrong.",
    "constrain": "Add one more condition that the answer has to meet, in 10 to 20 words.",
    "deepen": "Ask about the same thing in more depth and breadth, with 10 to 20 words more.",
    "concretize": "Put something more particular in the place of what is general, with 10 to 20 words more.",
    "reason": "Change it so that several more steps of reasoning are needed to answer it, with 10 to 20 "
    "words more.",
    "broaden": "Write another request of the same field, about as long and as hard, about something rarer.",
}
"""Way -> what is asked for."""
SAME_ANSWER: frozenset[Way] = frozenset({"paraphrase", "clean"})
"""Ways after which the right answer is still right."""


class RewriteConfig(Config):
    """The writer rewrites the sources' requests, and answers what came of them."""

    kind: Literal["rewrite"] = "rewrite"
    shows_requests: ClassVar[bool] = True
    ways: tuple[Way, ...] = Field(
        default=("constrain", "deepen", "concretize", "reason", "broaden"), min_length=1
    )
    """Each request is rewritten in one of these ways: they take turns over requests, and over generations."""
    generations: int = Field(default=1, ge=1, le=8)
    """How often what came of a request is rewritten again; each generation gives rows of its own."""
    gained: float = Field(default=0.95, gt=0, le=1)
    """What is so much like the request that it came from (ROUGE-L) gained nothing. Not asked of `clean`."""
    added_words: int = Field(default=60, ge=1)
    """How many words a generation may add. 10 to 20 are asked for; much more is another text."""
    requests: RequestRules = RequestRules(novelty=0.95)
    """What a request must be like to be answered."""

    def most(self, prompts: int, letters: float, samples: int) -> Most:
        """Of so many requests with so many letters each."""
        asked = prompts * self.generations
        request = "x" * round(letters)
        prompt = max(letters_of(rewriting_prompt(request, way, 0)) for way in self.ways)
        return Most(asked * (1 + samples), asked * (prompt + samples * letters), asked * samples)


def rewriting_prompt(request: str, way: Way, seed: int) -> Conversation:
    """Asks for the request to be rewritten in one way."""
    asked = (
        f"{quoted('request', request, seed)}\n\n"
        f"Rewrite the request that stands above. {WAYS[way]} It must hold all that is needed to answer it, "
        "and make sense by itself. Do not answer it. Write the result between <request> and </request>, and "
        "nothing else."
    )
    system = Message(role="system", content=NEVER_AN_ORDER)
    return Conversation(messages=(system, Message(role="user", content=asked)))


def eliminated(before: str, after: str, way: Way, config: RewriteConfig) -> Reason | None:
    """Why what was written is no rewriting of the request; None where it is one."""
    likeness = rouge_l(words_of(before), words_of(after))
    if way != "clean" and likeness >= config.gained:
        return Reason("request: nothing gained", round(likeness, 4), f"less than {config.gained:g} asked")
    added = len(after.split()) - len(before.split())
    if way != "broaden" and added > config.added_words:
        return Reason("request: too much added", added, f"at most {config.added_words} words more")
    if lost := _numbers(before) - _numbers(after) if way in SAME_ANSWER else None:
        return Reason("request: another one", min(lost), "a number of the old request is not in it")
    return None


_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def _numbers(text: str) -> set[str]:
    return set(_NUMBER.findall(text))


@dataclass(slots=True)
class _Line:
    """A request of the sources, and what has come of it."""

    task: Task
    """As it is now."""
    origin: str
    """The id of the sources' request."""
    ways: tuple[Way, ...] = ()
    """In which it was rewritten."""

    @property
    def request(self) -> str:
        """What the user says last."""
        return self.task.prompt.messages[-1].content


class Rewriting:
    """A Method: in each round requests are rewritten, and what came of the round before is answered."""

    def __init__(
        self,
        config: RewriteConfig,
        tasks: Sequence[Task],
        samples: int,
        seed: int,
        index: Index | None = None,
    ) -> None:
        """Requests in the middle of a talk are passed over: they make no sense by themselves. `index`:
        evaluation items that no request may ask."""
        self._config, self._seed = config, seed
        self._lines = [_Line(task, task.id) for task in tasks if _is_alone(task.prompt)]
        if not self._lines:
            raise UserError(
                f"none of {len(tasks):,} prompts is one question alone: only such are rewritten. Name others "
                "among synthesize.sources"
            )
        self._requests = Requests(config.requests, (line.request for line in self._lines), index)
        self._taken = Taken(samples)
        self._generation = 0

    def asks(self, kept: Sequence[Candidate]) -> Sequence[Ask]:
        """Answers to what the last generation brought, and the next generation."""
        answers = self._taken.asks()
        if self._generation == self._config.generations:
            return answers
        self._generation += 1
        ways = self._config.ways
        asks = list(answers)
        for place, line in enumerate(self._lines):
            way = ways[(place + self._generation - 1) % len(ways)]
            prompt = rewriting_prompt(line.request, way, self._seed)
            meta = {"line": place, "way": way}
            asks.append(Ask(conversation=prompt, sample=self._generation - 1, meta=meta))
        return asks

    def read(self, ask: Ask, answer: Answer) -> Iterable[Candidate | Reason]:
        """The answer to a request; or a rewritten request, of which only a reason is told. A request that
        could not be rewritten stays as it was for the next generation."""
        if ANSWERING in ask.meta:
            return self._taken.read(ask, answer)
        line, way = self._lines[ask.meta["line"]], ask.meta["way"]
        request = read_request(answer.text, answer.finish_reason != "length")
        if isinstance(request, Reason):
            return (request,)
        reason = eliminated(line.request, request, way, self._config)
        reason = reason or self._requests.admit(request, is_new=way != "clean")
        if reason is not None:
            return (replace(reason, says=f"{reason.says}: {request[:200]!r}"),)
        self._rewritten(line, request, way)
        return ()

    def _rewritten(self, line: _Line, request: str, way: Way) -> None:
        prompt = line.task.prompt
        changed = replace(prompt.messages[-1], content=request)
        prompt = replace(prompt, messages=(*prompt.messages[:-1], changed))
        problem = line.task.problem if way in SAME_ANSWER else None
        line.ways = (*line.ways, way)
        coordinates = {"ways": list(line.ways), "origin": line.origin[:16], "from": line.request}
        self._taken.add(prompt, coordinates, problem)
        line.task = self._taken.tasks[-1]


def _is_alone(prompt: Conversation) -> bool:
    """Whether a user asks, and nobody spoke before but the system."""
    return [turn.role for turn in prompt.messages if turn.role != "system"] == ["user"]

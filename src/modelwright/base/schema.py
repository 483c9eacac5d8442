"""The nouns of Modelwright. Read this file first.

Every stage hands one of these to the next, and nothing here names anything above it. All are
frozen: a changed document is a new document, so that what was recorded about the old one stays true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Json = Any
"""A value that `json.dumps` takes. Python cannot spell the recursive type so that pydantic and
pyright both accept it cheaply; the name says what is meant."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text and all we must be able to say about it later.

    `id` is the sha256 of the text's UTF-8 bytes (hex), so equal texts have equal ids everywhere.
    """

    text: str
    id: str
    source: str
    """Where it came from: "atlas", or the path of the file it was read from."""
    licence: str = "unknown"
    """An SPDX identifier where there is one ("CC0-1.0"), else words; "unknown" is honest."""
    jurisdiction: str = "unknown"
    """ISO 3166-1 alpha-2 code of where the source is governed, or "unknown"."""
    personal_data: bool | None = None
    """Whether it holds personal data; None means that nobody has looked."""
    meta: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a document was dropped or a line cut: fixed words to count by, and what was measured."""

    rule: str
    """The same few words for every document that it takes: "too short", "top 2-gram characters"."""
    value: float | str | None = None
    """What was measured, where that is a number or a name."""
    says: str = ""
    """The rest of the sentence for a reader: "at least 50 asked"."""

    def __str__(self) -> str:
        shown = f"{self.value:.4g}" if isinstance(self.value, float) else self.value
        rest = ", ".join(str(part) for part in (shown, self.says) if part not in (None, ""))
        return f"{self.rule}: {rest}" if rest else self.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A function that the assistant wants called."""

    name: str
    arguments: str
    """A JSON object as text, as it was written: what a model wrote is what it reads again."""
    id: str = ""
    """By which the result names the call. Not seen by the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    """What the assistant calls, after what it says."""
    tool_call_id: str = ""
    """The call whose result this is, where the role is "tool"."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages in order. Training supervises the assistant's turns and nothing else."""

    messages: tuple[Message, ...]
    tools: tuple[Json, ...] = ()
    """The functions that may be called, in OpenAI's form: {"type": "function", "function": {"name", ...}}."""
    meta: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class Preference:
    """Two answers to one prompt, and which is better, according to whom, and how they judged."""

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    judge: str
    method: str
    meta: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Something with an answer that can be checked: trained on and evaluated on alike.

    `prompt` is either messages (for a chat model) or a bare prefix to continue (any model).
    `target` is what the verifier compares with; its form is the verifier's own.
    """

    id: str
    prompt: tuple[Message, ...] | str
    verifier: str
    target: Json
    split: str
    meta: Mapping[str, Json] = field(default_factory=dict[str, Json])


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One micro-batch of token sequences, padded or packed to a rectangle (B, T)."""

    ids: Tensor
    """(B, T) int64 input tokens."""
    targets: Tensor
    """(B, T) int64: the token each position must predict, IGNORE where nothing is asked."""
    positions: Tensor | None = None
    """(B, T) int64 position of each token in its own document; None means 0..T-1."""
    segments: Tensor | None = None
    """(B, T) int64: attention stays within equal values; None means that a row is one document."""
    extra: Mapping[str, Tensor] = field(default_factory=dict[str, "Tensor"])
    """What only one objective needs, such as a reference model's log-probabilities: one value a row."""
    unit: int = 1
    """Rows that belong together: 2 where an answer is compared with the one in the next row."""
    places: Tensor | None = None
    """(n,) int64: what `supervised` returns, where it is known already."""

    @property
    def units(self) -> int:
        """Into how many parts the batch can be cut."""
        return len(self.ids) // self.unit

    def part(self, first: int, last: int) -> Batch:
        """Units `first` to `last` (not included), with all that belongs to their rows."""
        rows = slice(first * self.unit, last * self.unit)
        return Batch(
            ids=self.ids[rows],
            targets=self.targets[rows],
            positions=None if self.positions is None else self.positions[rows],
            segments=None if self.segments is None else self.segments[rows],
            extra={name: tensor[rows] for name, tensor in self.extra.items()},
            unit=self.unit,
        )

    def supervised(self) -> Tensor:
        """(n,) places of the tokens that have a target, in the batch as one row of B x T. Looked for on the
        host, before the batch goes to a GPU: there the search would make the host wait for its end."""
        if self.places is not None:
            return self.places
        return (self.targets.flatten() != IGNORE).nonzero().flatten()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device. From pinned memory to a GPU, nobody waits for the copy."""
        away = str(device).startswith("cuda")
        return self._each(lambda tensor: tensor.to(device, non_blocking=away))

    def pinned(self) -> Batch:
        """The same batch in memory that a GPU reads by itself."""
        return self._each(lambda tensor: tensor.pin_memory() if tensor.device.type == "cpu" else tensor)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """All tensors changed."""
        return Batch(
            ids=change(self.ids),
            targets=change(self.targets),
            positions=None if self.positions is None else change(self.positions),
            segments=None if self.segments is None else change(self.segments),
            extra={name: change(tensor) for name, tensor in self.extra.items()},
            unit=self.unit,
            places=change(self.supervised()),
        )


IGNORE = -100
"""The target that carries no loss (the value that torch and transformers use too)."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What an answer's text must be, by construction: tokens that would break it cannot be drawn."""

    kind: Literal["json_schema", "json_object", "regex", "grammar"]
    text: str
    """The schema (JSON), the regular expression or the grammar (Lark); not read for "json_object"."""


JSON_SPACE = r"( |\n{1,2}[ \t]{0,20})"
"""What may stand between the parts of JSON in a structure: a space, or a line break with an indent. Without a
bound a small model can go on with spaces for ever (llama.cpp bounds it likewise)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 is greedy. Applied in the order repetition penalty,
    frequency and presence penalty, logit bias, structure, temperature, top_k, top_p, min_p, as users of
    vLLM, OpenAI and llama.cpp expect (inference/sampling.py defines each)."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    """0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    """Same seed, same text, whatever else is in the batch. None draws a fresh one."""
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    """Go on where the model would end: only `stop`, `stop_ids` and `max_tokens` end the answer."""
    min_tokens: int = 0
    """Before so many tokens nothing ends the answer: what would end it cannot be drawn, and stop strings are
    passed over."""
    top_logprobs: int = 0
    """How many alternatives are reported for each sampled token."""
    repetition_penalty: float = 1.0
    """Divides the positive and multiplies the negative logits of every token that the prompt or the answer
    holds; above 1 discourages."""
    presence_penalty: float = 0.0
    """Taken from the logit of every token that the answer holds, once."""
    frequency_penalty: float = 0.0
    """Taken from a token's logit as often as the answer holds it."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, what is added to its logit), -100 to 100; -100 practically forbids, 100 forces."""
    adapter: str | None = None
    """The name of the LoRA adapter that answers; None is the model itself."""
    structure: Structure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What a sampler answered: tokens as sampled, never re-encoded from text."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Natural-log probability of each id under the model, before temperature and filters."""
    text: str
    finish_reason: Literal["stop", "length", "cancelled"]
    policy_version: int = 0
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    """For each id, the most likely (id, log-probability) pairs, best first."""
    sampler_logprobs: tuple[float, ...] = ()
    """Natural-log probability of each id under the distribution that it was drawn from: after penalties,
    bias, structure, temperature and filters (0 where the draw was greedy)."""
    top_sampler_logprobs: tuple[tuple[tuple[int, float], ...], ...] = ()
    """Like `top_logprobs`, under the distribution that was drawn from; only tokens that could be drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A conversation that a writer is to go on with, and how. Equal ones ask for the same text, where the
    writer can give it twice: several answers to one conversation differ in `sampling.seed`."""

    conversation: Conversation
    """It ends with a turn that is not the assistant's."""
    sampling: Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a writer wrote, as text, or why it wrote nothing. Nobody vouches for any of it."""

    text: str = ""
    reasoning: str = ""
    """What it thought before, where the writer tells it apart from what it says."""
    finish_reason: str = ""
    """Why it ended: "stop", "length" (cut at `max_tokens`), or another word of the writer's."""
    prompt_tokens: int | None = None
    """As the writer counts; None where it does not tell."""
    tokens: int | None = None
    """Written ones, those of the reasoning among them; None where the writer does not tell."""
    model: str = ""
    """The name of the model as the writer reports it."""
    seconds: float = 0.0
    """From the request to the whole answer, waiting for others included."""
    fault: str = ""
    """Why there is no answer, in words; "" where there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A verifier's word. `value` None is "ungraded": a fault of the check, never a zero."""

    value: float | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A problem, one attempt at it, and how it was scored."""

    problem: Problem
    completion: Completion
    score: Score

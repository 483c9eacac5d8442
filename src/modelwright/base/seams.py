"""The seams: what one floor may know of another. Three methods at most, so a mock can stand in.

Training sees a module and an `Objective`. Evaluation and reinforcement learning see a `Sampler`,
never the engine behind it. Data steps see iterators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from modelwright.base.schema import (
    Answer,
    Batch,
    Completion,
    Document,
    Problem,
    Prompt,
    Reason,
    Sampling,
    Score,
)

if TYPE_CHECKING:
    from torch import Tensor

Drop = Callable[[Document, Reason], None]
"""Called with each document that a step takes out, and the reason."""


class Step(Protocol):
    """A data step: documents in, documents out, reasons on the side."""

    def __call__(self, documents: Iterator[Document], drop: Drop) -> Iterator[Document]: ...


class Tokenizer(Protocol):
    """Text to ids and back. `decode(encode(text)) == text` for every text."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; what looks like a special token in it stays plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    @property
    def special_ids(self) -> Mapping[str, int]:
        """Special token -> id, e.g. {"<|im_end|>": 2}."""
        ...


class Words(Protocol):
    """A head (V, D) whose rows, a word each, are shared out: a process has (v, D); all see every token."""

    @property
    def first(self) -> int:
        """Id of the first word here."""
        ...

    @property
    def most(self) -> int:
        """Words of the process that has most of them. All agree on it, as on what they exchange."""
        ...

    def gathered(self, tensor: Tensor) -> Tensor:
        """(processes, *shape) of what each has, in the order of words. No gradient."""
        ...

    def add_up(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, in place."""
        ...

    def whole(self, head: Tensor) -> Tensor:
        """(V, D) from each one's (v, D). Whoever uses it computes all its gradients on every process."""
        ...


class Output(Protocol):
    """What a language model returns: hidden states, and logits only for those who ask."""

    @property
    def hidden(self) -> Tensor:
        """(B, T, D) after the last norm."""
        ...

    @property
    def head(self) -> Tensor:
        """(V, D) weight of the output projection: logits = hidden @ head.T"""
        ...

    @property
    def words(self) -> Words | None:
        """Where processes share out the rows of `head`: which ones these are. None: all of them."""
        ...

    @property
    def auxiliary(self) -> Tensor | None:
        """What the model itself wants minimised besides the objective, such as evenly used experts: nats,
        summed over the batch's supervised tokens, so that accumulation and data parallelism change
        nothing. None outside of training, and for most models."""
        ...

    def logits(self) -> Tensor:
        """(B, T, V) in fp32. Large: objectives use a chunked kernel on hidden and head instead."""
        ...


@runtime_checkable
class Adapting(Protocol):
    """A model that follows its training with more than its parameters, such as a mixture of experts that is
    kept in balance. The loop calls these on every model that has them."""

    def after_step(self, progress: float, total: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Called once after each step, whether its update was applied or not, before a checkpoint is written.
        `progress` is the share of the run that is done, in (0, 1]; `total` adds a tensor up over all
        processes. Returns metrics of the step."""
        ...

    def training_state(self) -> Mapping[str, Tensor]:
        """What the next step depends on besides the parameters; may be empty. The same on all processes."""
        ...

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `training_state` returned, and forget what was gathered since the last step."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """A model that has something to do once before all micro-batches of a step. The loop calls it on every
    model that has it."""

    def before_step(self, step: int) -> None:
        """The weights are those that the gradients of step `step`, from 0, will be of."""
        ...


UNITS = "_units"
"""Behind a metric's name: how many units it covers, where that is only a part of them."""


class Objective(Protocol):
    """A loss: pure, no optimizer, no state.

    Losses are returned as sums over `count` units (tokens, or pairs) and the loop divides by the
    count of the whole batch. That makes accumulation and data parallelism change nothing.
    """

    def count(self, batch: Batch) -> int:
        """How many units the batch holds."""
        ...

    def __call__(self, output: Output, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """(sum of the loss in nats over the units, metrics as detached sums over the units). A metric that
        some micro-batches do not have comes with the number of its units, as NAME_units."""
        ...


class Sampler(Protocol):
    """Whatever completes and scores token sequences: our engine, an HTTP client, a canned mock."""

    def sample(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]: ...

    def score(self, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """For each sequence of n ids, n - 1 log-probabilities: ids[i] given ids[:i], i >= 1."""
        ...

    def update_weights(self, state: Mapping[str, Tensor], version: int) -> None: ...


class Writer(Protocol):
    """Who writes answers as text: a model of ours behind its chat template, an HTTP endpoint, a script. What
    must know tokens and their probabilities takes a Sampler."""

    @property
    def name(self) -> str:
        """Who it is, for the record; never a secret. Two writers of one name write the same."""
        ...

    def write(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """(place of the prompt, answer), each as soon as it is there, in any order, each place once. What
        goes wrong with one prompt is an answer with a `fault`; raises UserError where nothing can be written
        at all (nobody is there, the key is refused)."""
        ...


class Environment(Protocol):
    """One attempt at one problem. Single use: there is no reset."""

    def open(self, problem: Problem) -> str: ...

    def step(self, action: str) -> tuple[str, bool]:
        """(observation, done)."""
        ...

    def score(self) -> Score: ...


class Sandbox(Protocol):
    """Where code that nobody trusts runs."""

    def write(self, path: str, content: bytes) -> None: ...

    def run(self, command: Sequence[str], timeout_seconds: float) -> tuple[int, bytes, bytes]:
        """(exit code, stdout, stderr), both capped."""
        ...

    def read(self, path: str) -> bytes: ...

"""Views of data: how conversations and pairs become what the loop trains and measures on (documents:
`text_view`).

A training stage inherits its view's settings. `average` builds the same held-out measure again from
the settings in the manifest, so that its candidates are judged as training judged them.
"""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from modelwright import objectives
from modelwright.base.config import Config, Settings
from modelwright.base.errors import UserError
from modelwright.base.policy import Policy
from modelwright.base.run import Run
from modelwright.base.schema import Conversation, Message, Preference
from modelwright.base.seams import Objective
from modelwright.base.seeding import derive
from modelwright.data.readers.faults import Faults
from modelwright.data.readers.source import Source
from modelwright.data.sources import conversations_from, preferences_from, provenance_of, statements
from modelwright.data.split import Side
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import sequence_logps
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.training.batches import Example, Packed, Pairs
from modelwright.training.loop import mean_loss
from modelwright.training.spread import Spread

if TYPE_CHECKING:
    from modelwright.training.loop import Validate

ATLAS = (Source(path="atlas"),)


class ConversationView(Config):
    """Conversations packed into rows; only the assistant's turns are learned."""

    sources: tuple[Source, ...] = ATLAS
    """Files of conversations (rows with `messages`), and the embedded corpus by its name."""
    policy: Policy = Policy()
    """What each conversation must be. In a recipe it is the section `policy`."""
    conversations: int = Field(default=6000, gt=0)
    """At most this many from each source."""
    validation_conversations: int = Field(default=200, gt=0)
    """Held-out conversations that each measurement reads, from each source."""
    epochs: int = Field(default=2, gt=0)
    """How often each is trained on."""
    context: int = Field(default=256, gt=1)
    """Tokens in a row; several conversations share one."""
    rows: int = Field(default=16, gt=0)
    """Rows in a micro-batch."""

    def pack(self, side: Side, tokenizer: BPETokenizer, run: Run, seed: int) -> Packed:
        """One side's conversations; what does not fit a row is counted and said."""
        training, faults = side == "train", Faults()
        packed, found = self.lay_out(side, tokenizer, seed, faults)
        if training:
            run.brings_in(
                provenance_of([found[index] for index in packed.kept]).stating(statements(self.sources))
            )
        left_out = (
            f"{packed.too_long:,} over {self.context} tokens, {packed.without_target:,} without an answer"
        )
        run.log(f"{side}: {len(found):,} conversations; left out: {left_out}{passed_over(faults)}")
        return packed

    def lay_out(
        self, side: Side, tokenizer: BPETokenizer, seed: int, faults: Faults
    ) -> tuple[Packed, list[Conversation]]:
        """One side's rows, and all conversations that were read for them."""
        training = side == "train"
        count = self.conversations if training else self.validation_conversations
        found = conversations_from(self.sources, derive(seed, "data"), count, side, faults, self.policy)
        examples = [supervised(tokenizer, conversation) for conversation in found]
        order, epochs = derive(seed, "batches"), self.epochs if training else 1
        return Packed(examples, self.rows, self.context, order, tokenizer.pad_id, epochs), found

    def measure(self, model: Transformer | Spread, tokenizer: BPETokenizer, run: Run, seed: int) -> Validate:
        """Nats per token of held-out assistant turns, shared among the processes that hold the model."""
        held_out = self.pack("validation", tokenizer, run, seed)
        return lambda: {"validation_loss": mean_loss(model, NextToken(), held_out)["loss"]}


class PairView(Config):
    """Preference pairs beside the log-probabilities of a frozen reference."""

    sources: tuple[Source, ...] = ATLAS
    """Files of pairs (rows with prompt, chosen, rejected), and the embedded corpus by its name."""
    policy: Policy = Policy()
    """What each pair must be. In a recipe it is the section `policy`."""
    pairs: int = Field(default=2000, gt=0)
    """At most this many from each source."""
    validation_pairs: int = Field(default=200, gt=0)
    """Held-out pairs that each measurement reads, from each source."""
    epochs: int = Field(default=1, gt=0)
    """How often each is trained on."""
    context: int = Field(default=512, gt=1)
    """Pairs with a longer side are left out, and counted."""
    rows: int = Field(default=32, gt=0)
    """Pairs in a micro-batch (two rows each)."""
    objective: Settings = {"name": "preference"}
    """The loss, a file of `objectives/` by name, and its settings: {name: preference, beta: 0.2}."""

    @model_validator(mode="after")
    def _objective_exists(self) -> Self:
        self.loss()
        return self

    def loss(self) -> Objective:
        """The objective, built."""
        return objectives.build(self.objective)

    def pair_up(
        self, side: Side, reference: Transformer | Spread, tokenizer: BPETokenizer, run: Run, seed: int
    ) -> Pairs:
        """One side's pairs; `reference` is the policy as it was at the start. Several processes that hold it
        together call this together."""
        training, faults = side == "train", Faults()
        fitting, kept, left_out = self.fitting(side, tokenizer, seed, faults)
        if training:
            run.brings_in(provenance_of(kept).stating(statements(self.sources)))
        passed, found = passed_over(faults), len(kept) + left_out
        run.log(f"{side}: {found:,} pairs; left out: {left_out:,} over {self.context} tokens{passed}")
        order, epochs = derive(seed, "batches"), self.epochs if training else 1
        logps = reference_logps(reference, Pairs(fitting, self.rows, order, tokenizer.pad_id), run)
        return Pairs(fitting, self.rows, order, tokenizer.pad_id, logps, epochs)

    def fitting(
        self, side: Side, tokenizer: BPETokenizer, seed: int, faults: Faults
    ) -> tuple[list[tuple[Example, Example]], list[Preference], int]:
        """One side's pairs that fit, as tokens and as they were read, and how many do not."""
        count = self.pairs if side == "train" else self.validation_pairs
        found = preferences_from(self.sources, derive(seed, "data"), count, side, faults, self.policy)
        pairs = [answers(tokenizer, preference) for preference in found]
        fits = [max(len(example.ids) for example in pair) <= self.context for pair in pairs]
        if not any(fits):
            raise UserError(
                f"none of {len(found):,} {side} pairs fits {self.context} tokens: "
                "give align.sources more pairs, or raise align.context"
            )
        return list(compress(pairs, fits)), list(compress(found, fits)), fits.count(False)

    def measure(self, model: Transformer | Spread, tokenizer: BPETokenizer, run: Run, seed: int) -> Validate:
        """Loss on held-out pairs, and how many of them are ranked right, shared as above; what the model is
        now is the reference."""
        held_out = self.pair_up("validation", model, tokenizer, run, seed)

        def validate() -> dict[str, float]:
            found = mean_loss(model, self.loss(), held_out)
            return {f"validation_{name}": value for name, value in found.items()}

        return validate


def passed_over(faults: Faults) -> str:
    """ ", 3 policy: share_alike": what was passed over in the sources, for the log."""
    return "".join(f", {count:,} {kind}" for kind, count in sorted(faults.passed_over.items()))


def supervised(tokenizer: BPETokenizer, conversation: Conversation) -> Example:
    """A conversation's tokens, learned where the assistant speaks."""
    rendered = render(tokenizer, conversation)
    return Example(rendered.ids, rendered.mask)


def answers(tokenizer: BPETokenizer, preference: Preference) -> tuple[Example, Example]:
    """The prompt with each of its two answers; only the answer and its end of turn count."""
    prompt = Conversation(messages=preference.prompt)
    given = len(render(tokenizer, prompt, add_generation_prompt=True).ids)

    def example(answer: str) -> Example:
        turns = (*preference.prompt, Message(role="assistant", content=answer))
        whole = render(tokenizer, Conversation(messages=turns))
        return Example(whole.ids, [False] * given + whole.mask[given:])

    return example(preference.chosen), example(preference.rejected)


@torch.no_grad()
def reference_logps(reference: Transformer | Spread, pairs: Pairs, run: Run) -> Tensor:
    """(2P,) log-probability of each answer under the reference. Processes that hold it together take a
    micro-batch each; where none is left for one, it runs the last again, so that it takes part in all
    exchanges."""
    spread = reference if isinstance(reference, Spread) else Spread(reference)
    place, readers = spread.place
    count = sum(len(pairs.members(index)) for index in range(len(pairs)))
    found = torch.zeros(count, 2, device=spread.device)
    with run.progress("reference", len(pairs)) as bar:
        for first in range(0, len(pairs), readers):
            mine = min(first + place, len(pairs) - 1)
            batch = pairs[mine].to(spread.device)
            logps = sequence_logps(spread.on_batch(batch), batch.targets)
            if first + place < len(pairs):
                found[pairs.members(mine)] = logps.view(-1, 2)
            bar.advance(min(readers, len(pairs) - first))
    return spread.add_up(found).flatten().cpu()

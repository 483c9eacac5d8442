"""Views of data: how conversations and pairs become what the loop trains and measures on (documents:
`text_view`).

A training stage inherits its view's settings. `average` builds the same held-out measure again from
the settings in the manifest, so that its candidates are judged as training judged them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import TYPE_CHECKING, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from modelwright import objectives
from modelwright.base.artifact import Artifact
from modelwright.base.config import Config, Settings
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.files import write_text
from modelwright.base.metrics import counted
from modelwright.base.policy import Policy
from modelwright.base.run import Run
from modelwright.base.schema import Conversation, Json, Message, Preference
from modelwright.base.seams import Objective
from modelwright.base.seeding import derive
from modelwright.data.conversations.sides import conversations_from, may_be_held_out, preferences_from
from modelwright.data.readers.faults import Faults, OnError
from modelwright.data.readers.source import Source
from modelwright.data.shorten import shorter
from modelwright.data.sources import provenance_of, statements
from modelwright.data.split import Side
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.objectives.preference import sequence_logps
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render
from modelwright.tokenizer.template import TemplateRefuses
from modelwright.training.batches import Example, FiniteBatches, Grouped, Packed, Pairs
from modelwright.training.loop import mean_loss
from modelwright.training.spread import Spread

if TYPE_CHECKING:
    from modelwright.training.loop import Validate

ATLAS = (Source(path="atlas"),)
WRITTEN, EXAMPLES, SYNTHESIZE = "examples", "examples.jsonl", "synthesize"
"""The rows that a model has written: their role, their file, and their name among sources."""
DROPPED = "dropped.jsonl"
"""What was left out of training, or shortened: a line each, with its place and the reason."""
REFUSED = "template refuses it"
OPENING = 120
"""Characters of a conversation that are shown of it."""


@dataclass(frozen=True, slots=True)
class LaidOut:
    """One side's conversations as rows to train on."""

    batches: Packed | Grouped
    conversations: list[Conversation]
    """All that were read, by the places that `batches` names; those that were too long as they are now."""
    dropped: list[dict[str, Json]]
    """What was left out, and why."""
    shortened: list[dict[str, Json]]
    """What is learned without its first turns."""

    def kept(self) -> list[Conversation]:
        """Those that are in `batches`, in the order of the sources."""
        return [self.conversations[place] for place in self.batches.kept]

    def counts(self) -> dict[str, int]:
        """For the manifest."""
        return {"left_out": len(self.dropped), "shortened": len(self.shortened)}


class ConversationView(Config):
    """Conversations in rows; only the assistant's turns are learned."""

    sources: tuple[Source, ...] = ATLAS
    """Files of conversations, and the embedded corpus by its name."""
    validation_sources: tuple[Source, ...] = ()
    """Files of which all is held out, and nothing of `sources`. Without them, one question in twenty is."""
    policy: Policy = Policy()
    """What each conversation must be. In a recipe it is the section `policy`."""
    on_error: OnError = "fail"
    """Whether a row that cannot be read ends the training before it begins, or is left out and listed."""
    conversations: int = Field(default=6000, gt=0)
    """At most this many from each source."""
    validation_conversations: int = Field(default=200, gt=0)
    """Held-out conversations that each measurement reads, from each source."""
    epochs: int | float = Field(default=2, gt=0)
    """How often each is trained on. 2.5: twice all of them, and half of them, drawn at random, once more."""
    context: int = Field(default=256, gt=1)
    """Tokens in a row, and of a conversation at most."""
    rows: int = Field(default=16, gt=0)
    """Rows in a micro-batch."""
    batching: Literal["packed", "grouped"] = "packed"
    """packed: several conversations share a row and do not see each other. grouped: each has a row, padded,
    among others of like length."""
    too_long: Literal["drop", "truncate"] = "drop"
    """Conversations over `context` tokens are left out, or lose their first turns until they fit: whole turns
    alone, and never the last answer. Both are counted and listed."""

    def given(self, inputs: Mapping[str, Artifact]) -> Self:
        """The same view, reading the rows that `synthesize` has written where the sources name it."""
        written, wanted = inputs.get(WRITTEN), any(source.is_written for source in self.sources)
        if wanted and written is None:
            raise UserError(
                "finetune.sources names 'synthesize', and nothing is written yet: run 'synthesize' first, or"
                " name what it has made with --input examples=PATH"
            )
        if written is None:
            return self
        if not wanted:
            raise ConfigError(
                f"finetune was given the rows of {written.path}, and its sources do not name 'synthesize':"
                " add it to finetune.sources"
            )
        rows = {"path": str(written.file(EXAMPLES)), "name": SYNTHESIZE, "layout": "messages"}
        sources = [each.model_copy(update=rows) if each.is_written else each for each in self.sources]
        return self.model_copy(update={"sources": tuple(sources)})

    def pack(self, side: Side, tokenizer: BPETokenizer, run: Run, seed: int) -> LaidOut:
        """One side's conversations; what does not fit a row is counted, said and listed."""
        faults, unread = listing(self.on_error)
        laid = self.lay_out(side, tokenizer, seed, faults)
        laid = replace(laid, dropped=[*unread, *laid.dropped])
        batches, found = laid.batches, laid.conversations
        if side == "train":
            # What `synthesize` wrote is known of an input already, with its prompts and its writer.
            own = [each for each in laid.kept() if each.meta["source"] != SYNTHESIZE]
            run.brings_in(provenance_of(own).stating(statements(self.sources)))
            _write_dropped(run, [*laid.dropped, *laid.shortened])
        too_long, no_target, cut = map(len, (batches.too_long, batches.without_target, laid.shortened))
        run.log(
            f"{side}: {counted(len(found), 'conversation')}; left out: {too_long:,} over"
            f" {self.context} tokens, {no_target:,} without an answer{passed_over(faults)}"
            f"{f'; {cut:,} shortened to their last turns' if cut else ''}"
            f"; rows: {', '.join(sorted({str(each.meta.get('layout', 'atlas')) for each in found}))}"
        )
        return laid

    def lay_out(self, side: Side, tokenizer: BPETokenizer, seed: int, faults: Faults) -> LaidOut:
        """One side's rows, and all conversations that were read for them."""
        training = side == "train"
        count = self.conversations if training else self.validation_conversations
        read, fitted = list[Conversation](), list[tuple[Conversation, Example]]()
        for conversation in self.read(side, seed, count, faults):
            try:
                fitted.append(self._fitted(tokenizer, conversation))
            except TemplateRefuses as refusal:
                faults(REFUSED, _place(conversation.meta), str(refusal))
            else:
                read.append(conversation)
        if not (fitted or training):
            raise self._none_held_out()
        make = Packed if self.batching == "packed" else Grouped
        order, epochs = derive(seed, "batches"), self.epochs if training else 1
        examples = [example for _, example in fitted]
        batches = make(examples, self.rows, self.context, order, tokenizer.pad_id, epochs)
        found = [conversation for conversation, _ in fitted]
        reasons = dict.fromkeys(batches.too_long, f"over {self.context} tokens")
        reasons |= dict.fromkeys(batches.without_target, "no answer to learn from")
        shortened = {
            place: f"shortened to {len(found[place].messages)} of {len(read[place].messages)} turns"
            for place in batches.kept
            if found[place] is not read[place]
        }
        return LaidOut(batches, found, _listed(read, reasons), _listed(read, shortened))

    def check_held_out(self) -> None:
        """Raises UserError where the files that there are leave nothing to measure by. What `synthesize` will
        write may hold something out."""
        apart = self.validation_sources
        read = apart or self.sources
        if any(source.is_atlas or source.is_written for source in read):
            return
        if not may_be_held_out(read, self.policy, whole=bool(apart)):
            raise self._none_held_out()

    def _none_held_out(self) -> UserError:
        if self.validation_sources:
            named = ", ".join(str(source.path) for source in self.validation_sources)
            return UserError(
                f"validation_sources ({named}) hold no conversation, so nothing would say how well the others"
                " are learned. Add rows to them"
            )
        named = ", ".join(str(source.path) for source in self.sources)
        return UserError(
            f"no conversation of {named} is held out, so nothing would say how well the rest is learned: each"
            " question's hash decides which 5 % are, and few rows may have none. Add rows, or name a file of"
            " its own as validation_sources"
        )

    def read(self, side: Side, seed: int, count: int, faults: Faults) -> list[Conversation]:
        """One side's conversations, at most `count` from each source."""
        apart = self.validation_sources
        sources = apart if apart and side == "validation" else self.sources
        drawn = derive(seed, "data")
        return conversations_from(sources, drawn, count, side, faults, self.policy, whole=bool(apart))

    def _fitted(self, tokenizer: BPETokenizer, conversation: Conversation) -> tuple[Conversation, Example]:
        """A conversation, shortened where that is wanted, needed and possible."""
        whole = supervised(tokenizer, conversation)
        if self.too_long == "truncate" and len(whole.ids) > self.context + 1:
            for less in shorter(conversation):
                example = supervised(tokenizer, less)
                if len(example.ids) <= self.context + 1:
                    return less, example
        return conversation, whole


class PairView(Config):
    """Preference pairs beside the log-probabilities of a frozen reference."""

    sources: tuple[Source, ...] = ATLAS
    """Files of pairs (rows with prompt, chosen, rejected), and the embedded corpus by its name."""
    policy: Policy = Policy()
    """What each pair must be. In a recipe it is the section `policy`."""
    on_error: OnError = "fail"
    """As in `ConversationView`."""
    pairs: int = Field(default=2000, gt=0)
    """At most this many from each source."""
    validation_pairs: int = Field(default=200, gt=0)
    """Held-out pairs that each measurement reads, from each source."""
    epochs: int | float = Field(default=1, gt=0)
    """How often each is trained on; a part of an epoch draws as in `ConversationView`."""
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
        training, (faults, unread) = side == "train", listing(self.on_error)
        fitting, kept, too_long = self.fitting(side, tokenizer, seed, faults)
        if training:
            run.brings_in(provenance_of(kept).stating(statements(self.sources)))
            reason = f"over {self.context} tokens"
            _write_dropped(run, [*unread, *(_dropped(pair.meta, pair.prompt, reason) for pair in too_long)])
        passed, found = passed_over(faults), counted(len(kept) + len(too_long), "pair")
        run.log(f"{side}: {found}; left out: {len(too_long):,} over {self.context} tokens{passed}")
        order, epochs = derive(seed, "batches"), self.epochs if training else 1
        logps = reference_logps(reference, Pairs(fitting, self.rows, order, tokenizer.pad_id), run)
        return Pairs(fitting, self.rows, order, tokenizer.pad_id, logps, epochs)

    def fitting(
        self, side: Side, tokenizer: BPETokenizer, seed: int, faults: Faults
    ) -> tuple[list[tuple[Example, Example]], list[Preference], list[Preference]]:
        """One side's pairs that fit, as tokens and as they were read, and those that do not."""
        count = self.pairs if side == "train" else self.validation_pairs
        pairs, found = list[tuple[Example, Example]](), list[Preference]()
        for pair in preferences_from(self.sources, derive(seed, "data"), count, side, faults, self.policy):
            try:
                pairs.append(answers(tokenizer, pair))
            except TemplateRefuses as refusal:
                faults(REFUSED, _place(pair.meta), str(refusal))
            else:
                found.append(pair)
        fits = [max(len(example.ids) for example in pair) <= self.context for pair in pairs]
        if not any(fits):
            raise UserError(
                f"none of {len(found):,} {side} pairs fits {self.context} tokens: "
                "give align.sources more pairs, or raise align.context"
            )
        too_long = [pair for pair, fit in zip(found, fits, strict=True) if not fit]
        return list(compress(pairs, fits)), list(compress(found, fits)), too_long

    def measure(self, model: Transformer | Spread, tokenizer: BPETokenizer, run: Run, seed: int) -> Validate:
        """Loss on held-out pairs, and how many of them are ranked right, shared as above; what the model is
        now is the reference."""
        held_out = self.pair_up("validation", model, tokenizer, run, seed)

        def validate() -> dict[str, float]:
            found = mean_loss(model, self.loss(), held_out)
            return {f"validation_{name}": value for name, value in found.items()}

        return validate


def _dropped(meta: Mapping[str, Json], messages: Sequence[Message], reason: str) -> dict[str, Json]:
    """A line for `DROPPED`: what is known of where messages stand, how they begin, and why."""
    place = {name: meta[name] for name in ("source", "file", "place") if name in meta}
    return {**place, "opening": messages[0].content[:OPENING], "reason": reason}


def _listed(read: Sequence[Conversation], reasons: Mapping[int, str]) -> list[dict[str, Json]]:
    return [_dropped(read[place].meta, read[place].messages, reasons[place]) for place in sorted(reasons)]


def listing(on_error: OnError) -> tuple[Faults, list[dict[str, Json]]]:
    """What is told of rows that are not read, and the list that it makes of them, as lines for `DROPPED`."""
    unread: list[dict[str, Json]] = []
    return Faults(on_error, lambda where, why: unread.append({"place": where, "reason": str(why)})), unread


def _place(meta: Mapping[str, Json]) -> str:
    return ", ".join(str(meta[name]) for name in ("file", "place") if name in meta) or "atlas"


def _write_dropped(run: Run, rows: list[dict[str, Json]]) -> None:
    if run.keeps:
        write_text(run.dir / DROPPED, "".join(f"{json.dumps(row)}\n" for row in rows))


def left_out(run: Run) -> dict[str, int]:
    """How many pairs `DROPPED` names, for the manifest."""
    path = run.dir / DROPPED
    return {"left_out": path.read_text(encoding="utf-8").count("\n")} if path.is_file() else {}


def passed_over(faults: Faults) -> str:
    """ ", 3 policy: share_alike": what was passed over in the sources or is wrong with them, for the log."""
    counts = faults.passed_over + faults.counts
    return "".join(f", {count:,} {kind}" for kind, count in sorted(counts.items()))


def held_out_loss(model: Transformer | Spread, held_out: FiniteBatches) -> dict[str, float]:
    """Nats per token of held-out assistant turns, shared among the processes that hold the model."""
    return {"validation_loss": mean_loss(model, NextToken(), held_out)["loss"]}


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

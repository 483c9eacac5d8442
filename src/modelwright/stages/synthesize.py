"""synthesize: prompts -> rows that a model wrote, verified, each with the record of how it came about.

Leaves `examples.jsonl` (what `finetune` learns from), `dropped.jsonl` (all others, with the reason) and
`answers.jsonl`, the journal: what was answered is not asked again, after a kill or with other filters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config as BaseConfig
from modelwright.base.device import name_of
from modelwright.base.errors import UserError
from modelwright.base.files import write_text
from modelwright.base.metrics import counted
from modelwright.base.policy import Policy
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.base.schema import Answer, Json, Prompt, Reason, Score
from modelwright.base.seams import Writer
from modelwright.base.seeding import derive
from modelwright.data.conversations.sides import conversations_from
from modelwright.data.conversations.write import write_rows
from modelwright.data.readers.faults import Faults, OnError
from modelwright.data.readers.source import Source
from modelwright.data.sources import mark, provenance_of, stated, statements
from modelwright.data.synthesis.answers import AnswersConfig
from modelwright.data.synthesis.choosing import Keep, choose
from modelwright.data.synthesis.funnel import Funnel
from modelwright.data.synthesis.method import Ask, Candidate, Method
from modelwright.data.synthesis.personas import PersonasConfig
from modelwright.data.synthesis.record import RECORD, PriceConfig, Terms, dropped_of, row_of
from modelwright.data.synthesis.spread import reached
from modelwright.data.synthesis.tasks import prompt_id, tasks_of
from modelwright.environments.rejection import FEWEST_VOTES, VOTE, VerifyConfig, judged, with_problems
from modelwright.stages import synthesis_page
from modelwright.stages.screening import (
    Failures,
    JudgeConfig,
    Judging,
    RowsConfig,
    Screen,
    check_judge,
    journal_of,
)
from modelwright.stages.synthesis_methods import MethodConfig, keeps_targets, method_of, writes_after
from modelwright.stages.writing import (
    EngineWriter,
    LocalWriter,
    SamplingConfig,
    WriterConfig,
    check_writer,
    open_writer,
    writer_facts,
    writer_licence,
    writer_mark,
)

INPUTS: tuple[str, ...] = ()
EXAMPLES, DROPPED, ANSWERS, PAGE = "examples.jsonl", "dropped.jsonl", "answers.jsonl", "report.html"
LARGEST_SEED = 1 << 31
"""Seeds are smaller, so that every server takes them."""
ATLAS = (Source(path="atlas"),)


class Config(BaseConfig):
    """Who writes what, from which prompts, and which of it is kept."""

    method: MethodConfig = AnswersConfig()
    """How rows are made, by its kind: answers, or {kind: rationales, learn: both}."""
    writer: WriterConfig = LocalWriter()
    """Who writes: {model: FOLDER}, or an endpoint, {url: ADDRESS, model: NAME, key_from: VARIABLE}."""
    sources: tuple[Source, ...] = ATLAS
    """Files of conversations or of problems: their last answers are not shown to the writer."""
    policy: Policy = Policy()
    """What each source, and the writer, must be. In a recipe it is the section `policy`."""
    on_error: OnError = "fail"
    """Whether a row that cannot be read ends the work before it begins, or is left out."""
    prompts: int = Field(default=1000, gt=0)
    """At most this many from each source."""
    samples: int = Field(default=1, gt=0)
    """Answers to each prompt."""
    sampling: SamplingConfig = SamplingConfig()
    """How the writer draws its words."""
    verify: VerifyConfig | None = None
    """What says that an answer is right; what is wrong is not kept. None: nobody."""
    keep: Keep = "all"
    """Of several good answers to one prompt: the first, the best, or all that differ."""
    rows: RowsConfig | None = None
    """What rows must be like: {} looks for refusals, echoes, cut answers, repeats, evaluation items and more.
    None: they are taken as they come."""
    judge: JudgeConfig | None = None
    """A model that scores each row that is left; low scores go. None: nobody."""
    price: PriceConfig = PriceConfig()
    """What tokens cost, for the sum in the manifest; the judge's too, where `judge.price` does not say."""

    @field_validator("method", mode="before")
    @classmethod
    def _from_word(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _enough_votes(self) -> Self:
        if self.verify and self.verify.by == VOTE and self.samples < FEWEST_VOTES:
            raise ValueError(
                f"verify: {{by: vote}} with samples: {self.samples}: a vote needs at least {FEWEST_VOTES}"
                " answers to a question. Raise samples, or name a verifier"
            )
        return self

    @model_validator(mode="after")
    def _one_currency(self) -> Self:
        judge = self.judge.price if self.judge else None
        if judge and judge.currency != self.price.currency:
            raise ValueError(
                f"judge.price is in {judge.currency} and price in {self.price.currency}: the sum needs one"
                " currency. State both in the same"
            )
        return self

    @model_validator(mode="after")
    def _can_be_verified(self) -> Self:
        if self.verify and self.verify.by != VOTE and not keeps_targets(self.method):
            raise ValueError(
                f"verify: {{by: {self.verify.by}}} with method: {self.method.kind}: nobody knows the right"
                " answers to its new requests. Take {by: vote}, or a judge"
            )
        return self


def check(config: Config) -> None:
    """Raises UserError where nobody could write or judge: no folder of a model, no key."""
    check_writer(config.writer)
    if config.judge:
        check_judge(config.judge)


def check_here(config: Config) -> None:
    """Raises UserError where this machine has not the device on which a model is to write or to judge."""
    for writer in (config.writer, *([config.judge.writer] if config.judge else [])):
        if isinstance(writer, LocalWriter):
            name_of(writer.device)


def sources(config: Config) -> str:
    """A mark of what sources, writer and judge hold now: when it changes, the stage runs anew."""
    held = f"{mark(config.sources)} {writer_mark(config.writer)}"
    return f"{held} {writer_mark(config.judge.writer)}" if config.judge else held


def facts(config: Config) -> Provenance:
    """What sources, writer and judge state, for the policy: known before any work."""
    return stated(config.sources) + _authors(config)


def _authors(config: Config) -> Provenance:
    """Writer and judge as sources of their own: a judge chose the rows, and records hold its words."""
    judge = writer_facts(config.judge.writer) if config.judge else Provenance()
    return writer_facts(config.writer) | judge


def run(config: Config, run: Run) -> Artifact:
    """Ask, read, verify, choose, round by round; leave the rows."""
    faults = Faults(config.on_error)
    drawn = derive(run.seed, "data")
    whole = not writes_after(config.method)
    read = conversations_from(
        config.sources, drawn, config.prompts, "train", faults, config.policy, whole=whole, answered=False
    )
    tasks = tasks_of(read)
    if not tasks:
        raise UserError(
            f"synthesize.sources hold no prompt{'' if whole else ' that finetune does not hold out'}: name"
            " files of conversations, questions or problems"
        )
    run.log(f"{counted(len(tasks), 'prompt')} of {counted(len(read), 'row')}")
    tasks = with_problems(tasks, config.verify)
    if config.verify and config.verify.by != VOTE and (bare := sum(task.problem is None for task in tasks)):
        run.log(f"prompts without a target to verify by: {bare:,}; their answers will be ungraded")
    brought = provenance_of(task.prompt for task in tasks).stating(statements(config.sources))
    run.brings_in(brought + _authors(config))
    writer = open_writer(config.writer, run.log)
    judging = Judging(config.judge, run) if config.judge else None  # refused here, before answers are paid
    index = config.rows.index() if config.rows else None
    method = method_of(config.method, tasks, config.samples, derive(run.seed, "method"), index)
    works = Works(config, run, writer, Screen(config.rows, index), judging)
    try:
        works.go_through(method)
        return works.finish()
    finally:
        if judging:
            judging.journal.close()


@dataclass(frozen=True, slots=True)
class _Found:
    """A candidate, and what it came from."""

    candidate: Candidate
    prompt: Prompt
    answer: Answer


class Works:
    """Rounds of asking and choosing, and what came of them."""

    def __init__(
        self, config: Config, run: Run, writer: Writer, screen: Screen, judging: Judging | None = None
    ) -> None:
        self._config, self._run, self._writer, self._screen = config, run, writer, screen
        self._judging = judging
        by = config.writer
        self._terms = Terms(writer_licence(by), by.jurisdiction, by.personal_data)
        self._journal = journal_of(run, ANSWERS, writer)
        self._failures, self._funnel = Failures(run, "answer"), Funnel()
        self._found: list[tuple[_Found, Score]] = []
        self._dropped: list[dict[str, Json]] = []
        self._kept: list[Candidate] = []

    def go_through(self, method: Method) -> None:
        """All rounds of a method."""
        self._run.metrics.rewind(0)
        number = 0
        try:
            while asks := method.asks(self._kept):
                number += 1
                found = list(self._read(method, asks))
                self._choose(list(self._screened(found)))
                self._run.metric(number, asked=len(asks), read=len(found), kept=len(self._kept))
        finally:
            self._journal.close()

    def _read(self, method: Method, asks: Sequence[Ask]) -> list[_Found]:
        """The candidates of a round, in the order of its asks, however the answers came."""
        prompts = [self._prompt(ask) for ask in asks]
        answers: dict[int, Answer] = {}
        with self._run.progress("answers", len(asks)) as bar:
            for place, answer in self._journal.answers(prompts):
                answers[place] = answer
                bar.advance(1, tokens=float(self._journal.tokens), **self._failures.seen(answer))
        found: list[_Found] = []
        self._funnel.came("answered", len(asks))
        for place, (ask, prompt) in enumerate(zip(asks, prompts, strict=True)):
            answer = answers[place]
            if answer.fault:
                self._drop("answered", prompt, answer.text, Reason("no answer", says=answer.fault))
                continue
            for each in method.read(ask, answer):
                self._funnel.came("read")
                if isinstance(each, Reason):
                    self._drop("read", prompt, answer.text, each)
                else:
                    found.append(_Found(each, prompt, answer))
        return found

    def _prompt(self, ask: Ask) -> Prompt:
        """What the writer gets: each sample has a seed of its own, whatever else is asked."""
        sampling = ask.sampling or self._config.sampling.sampling()
        seed = derive(self._run.seed, "sample", prompt_id(ask.conversation), ask.sample) % LARGEST_SEED
        return Prompt(conversation=ask.conversation, sampling=replace(sampling, seed=seed))

    def _screened(self, found: Sequence[_Found]) -> Iterator[_Found]:
        """The candidates with which nothing is wrong by themselves."""
        if self._config.rows:
            self._funnel.came("looked at", len(found))
        for each in found:
            reason = self._screen.wrong(each.candidate)
            if reason is None:
                yield each
            else:
                self._drop("looked at", each.prompt, each.answer.text, reason)

    def _choose(self, found: Sequence[_Found]) -> None:
        """Keep what the verifier passes, and of each group what is wanted of it."""
        config, candidates = self._config, [each.candidate for each in found]
        scores = judged(candidates, config.verify, config.samples)
        good: list[tuple[_Found, Score]] = []
        if config.verify:
            self._funnel.came("verified", len(found))
        for each, (score, reason) in zip(found, scores, strict=True):
            if reason is not None:
                self._drop("verified", each.prompt, each.answer.text, reason)
            else:
                good.append((each, score))
        groups = [each.candidate.group for each, _ in good]
        texts = [each.candidate.conversation.messages[-1].content for each, _ in good]
        chosen = choose(groups, texts, [score for _, score in good], self._config.keep)
        self._funnel.came("chosen", len(good))
        for (each, score), reason in zip(good, chosen, strict=True):
            if reason is not None:
                self._drop("chosen", each.prompt, each.answer.text, reason)
            else:
                self._keep(each, score)

    def _keep(self, found: _Found, score: Score) -> None:
        self._kept.append(found.candidate)
        self._found.append((found, score))

    def _compared(self) -> None:
        """Take out what repeats earlier rows."""
        reasons = self._screen.repeats([found.candidate.conversation for found, _ in self._found])
        if self._config.rows and self._config.rows.repeats:
            self._funnel.came("compared", len(reasons))
        left: list[tuple[_Found, Score]] = []
        for (found, score), reason in zip(self._found, reasons, strict=True):
            if reason is None:
                left.append((found, score))
            else:
                self._drop("compared", found.prompt, found.answer.text, reason)
        self._found = left

    def _rows(self) -> Iterator[dict[str, Json]]:
        """The rows that are left, with their records; those that a judge finds bad go."""
        judging = self._judging
        by = self._config.verify.by if self._config.verify else ""
        rows = [found.candidate.conversation for found, _ in self._found]
        said = list(judging.scores(rows)) if judging else [(None, None)] * len(rows)
        if judging:
            self._funnel.came("judged", len(rows))
        for (found, score), (opinion, reason) in zip(self._found, said, strict=True):
            if reason is not None:
                self._drop("judged", found.prompt, found.answer.text, reason)
                continue
            row = row_of(
                found.candidate, found.prompt, found.answer, self._writer.name, self._terms, by, score
            )
            if judging and opinion:
                judge = {"by": judging.writer.name, "score": opinion.value, "reason": opinion.reason}
                row[RECORD]["judge"] = judge
            yield row

    def _spread(self, rows: Sequence[dict[str, Json]]) -> dict[str, Json]:
        """Of personas: how evenly the rows that were kept reach the grid."""
        method = self._config.method
        if not isinstance(method, PersonasConfig):
            return {}
        axes, share = reached(method.axes(), (row[RECORD]["coordinates"] for row in rows))
        said = "; ".join(f"{axis.axis} {axis.evenness:.2f}" for axis in axes)
        self._run.log(f"spread: {share:.0%} of the cells have a row; evenness (1 is even): {said}")
        return {"spread": {"cells": share, **{axis.axis: axis._asdict() for axis in axes}}}

    def _drop(self, step: str, prompt: Prompt, text: str, reason: Reason) -> None:
        self._funnel.out(step, reason, text)
        self._dropped.append(dropped_of(prompt, text, reason))

    def finish(self) -> Artifact:
        """Write what there is, and say what it took."""
        run, journal, price = self._run, self._journal, self._config.price
        self._compared()
        made, judging = list(self._rows()), self._judging
        asked = [(self._writer, journal), *([(judging.writer, judging.journal)] if judging else [])]
        read, written = sum(each.prompt_tokens for _, each in asked), sum(each.tokens for _, each in asked)
        write_rows(run.dir / DROPPED, self._dropped)
        for line in self._funnel.lines():
            run.log(line)
        if not made:
            raise UserError(f"no row was kept. {run.dir / DROPPED} says why of each")
        write_rows(run.dir / EXAMPLES, made)
        rows, money = len(made), price.of(journal.prompt_tokens, journal.tokens)
        if judging:
            money += (judging.price or price).of(judging.journal.prompt_tokens, judging.journal.tokens)
        spent = f", {money:.4g} {price.currency} in all" if money else ""
        run.log(
            f"{counted(rows, 'row')} by {self._writer.name}; for each {read / rows:,.0f} tokens read,"
            f" {written / rows:,.0f} written, {run.seconds / rows:.3g} s{spent}"
        )
        metrics = {
            "rows": rows,
            "writer": self._writer.name,
            "asked": journal.asked,
            "prompt_tokens": read,
            "written_tokens": written,
            "judge": judging.writer.name if judging else "",
            "judge_tokens": judging.journal.prompt_tokens + judging.journal.tokens if judging else 0,
            "uncounted": journal.uncounted,
            "tokens_per_row": (read + written) / rows,
            "seconds_per_row": run.seconds / rows,
            "money": money,
            "money_per_row": money / rows,
            "currency": price.currency,
            "funnel": self._funnel.as_json(),
            **self._spread(made),
        }
        write_text(run.dir / PAGE, synthesis_page.render(self._funnel, metrics))
        run.log(f"what was taken out, with texts of each reason: {run.dir / PAGE}")
        flops = sum(
            who.flops_per_token * (each.prompt_tokens + each.tokens)
            for who, each in asked
            if isinstance(who, EngineWriter)
        )
        return run.finish([EXAMPLES, DROPPED, PAGE, "metrics.jsonl"], metrics, journal.tokens, flops, money)

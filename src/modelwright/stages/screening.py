"""What written rows must be like before anybody learns from them, and who judges them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from pydantic import Field

from modelwright.base.errors import ConfigError
from modelwright.base.run import Run
from modelwright.base.schema import Answer, Conversation, Prompt, Reason, Sampling, Score
from modelwright.base.seams import Writer
from modelwright.base.seeding import derive
from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.items import read_items
from modelwright.data.synthesis.journal import Journal
from modelwright.data.synthesis.method import Candidate
from modelwright.data.synthesis.record import PriceConfig
from modelwright.data.synthesis.rows import RowChecks, RowRules, repeated
from modelwright.data.synthesis.rubric import RubricConfig, judged, read_score, rubric_prompt
from modelwright.environments.items import known_items
from modelwright.stages.writing import EndpointWriter, LocalWriter, WriterConfig, check_writer, open_writer

JUDGEMENTS = "judgements.jsonl"
EARLIER = "replaced/synthesize-*"
"""Folders of runs with other settings, beside the station's."""


class RowsConfig(RowRules):
    """Looks at every row; what is wrong with it takes it out."""

    decontaminate: bool = True
    """Whether rows go that hold a problem of the suites that `evaluate` knows, or of `against`."""
    against: tuple[str, ...] = ()
    """Files or folders of further evaluation sets."""

    def index(self) -> Index | None:
        """What no row may hold."""
        if not self.decontaminate:
            return None
        return Index.build(chain(known_items(), *(read_items(Path(path)) for path in self.against)))


class JudgeConfig(RubricConfig):
    """A model that scores each row by a rubric."""

    writer: WriterConfig = LocalWriter()
    """Who judges, as `synthesize.writer`; better another model than the one that wrote."""
    max_tokens: int = Field(default=256, gt=0)
    """Longest judgement."""
    price: PriceConfig | None = None
    """What the judge's tokens cost, in the currency of `synthesize.price`; None: what the writer's do."""


class Screen:
    """Looks at rows as they come (`wrong`), and at all that are left in the end (`repeats`)."""

    def __init__(self, config: RowsConfig | None, index: Index | None) -> None:
        self._config = config
        self._checks = RowChecks(config, index) if config else None

    def wrong(self, candidate: Candidate) -> Reason | None:
        """Why a row is not kept, by itself."""
        return self._checks.wrong(candidate.conversation, candidate.is_whole) if self._checks else None

    def repeats(self, rows: Sequence[Conversation]) -> list[Reason | None]:
        """Of all rows, which say what an earlier one says."""
        if self._config is None or not self._config.repeats:
            return [None] * len(rows)
        return repeated(rows)


def journal_of(run: Run, name: str, writer: Writer) -> Journal:
    """A file of answers, with those of earlier runs; lines that could not be read are said."""
    journal = Journal(run.dir / name, writer, sorted(run.dir.parent.glob(f"{EARLIER}/{name}")))
    if journal.torn:
        run.log(f"{name}: lines that cannot be read: {journal.torn:,}; what stood there is asked again")
    return journal


class Failures:
    """Prompts without an answer, counted apart from answers; why the first has none is said."""

    def __init__(self, run: Run, wanted: str) -> None:
        self._run, self._wanted, self._count = run, wanted, 0

    def seen(self, answer: Answer) -> dict[str, float]:
        """One more; what is to be shown beside the bar."""
        if answer.fault and not self._count:
            self._run.log(f"a prompt got no {self._wanted}, the first: {answer.fault}")
        self._count += bool(answer.fault)
        return {"without_answer": float(self._count)} if self._count else {}


class Judging:
    """Asks a judge, with a journal of its own: nothing is asked twice."""

    def __init__(self, config: JudgeConfig, run: Run, writer: Writer | None = None) -> None:
        self._config, self._run = config, run
        self.writer = writer or open_writer(_checked(config.writer), run.log)
        self.price = config.price
        self.journal = journal_of(run, JUDGEMENTS, self.writer)

    def scores(self, rows: Sequence[Conversation]) -> Iterator[tuple[Score, Reason | None]]:
        """For each row its score, and why it is not kept. A fault is no score: the row is ungraded."""
        seed = derive(self._run.seed, "judge")
        sampling = Sampling(max_tokens=self._config.max_tokens, seed=seed % (1 << 31))
        prompts = [
            Prompt(conversation=rubric_prompt(self._config, row, seed), sampling=sampling) for row in rows
        ]
        found: dict[int, Score] = {}
        failures = Failures(self._run, "judgement")
        try:
            with self._run.progress("judgements", len(prompts)) as bar:
                for place, answer in self.journal.answers(prompts):
                    fault = Score(value=None, reason=f"ungraded: {answer.fault}")
                    whole = answer.finish_reason != "length"
                    found[place] = fault if answer.fault else read_score(answer.text, whole)
                    bar.advance(1, **failures.seen(answer))
        finally:
            self.journal.close()
        for place in range(len(rows)):
            yield found[place], judged(found[place], self._config)


def check_judge(config: JudgeConfig) -> None:
    """Raises UserError where nobody could judge, as `check_writer` does."""
    check_writer(_checked(config.writer))


def _checked(config: LocalWriter | EndpointWriter) -> LocalWriter | EndpointWriter:
    if not config.model:
        raise ConfigError(
            "synthesize.judge.writer is missing: name a model's folder, judge: {writer: {model: FOLDER}}, or "
            "an endpoint"
        )
    return config

"""rationale_study: what do written-out steps save? A small student learns from a teacher's answers alone,
from its steps and answers, or from both, and is asked with and without steps: accuracy against cost.

For each amount of problems, each way and each seed a student is fine-tuned (`finetune`) on what a teacher
wrote and a verifier passed, and is asked the same problems that no student has seen. The teacher's tokens,
the FLOPs of training and the tokens of an answer are counted. Each cell is a folder, so an interrupted study
goes on where it was.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from modelwright.base import config
from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import canonical_json, read_json, sha256_text, write_json, write_text
from modelwright.base.progress import View
from modelwright.base.run import Run
from modelwright.base.schema import Answer, Conversation, Message, Problem, Prompt, Sampling
from modelwright.base.seams import Sampler, Writer
from modelwright.base.seeding import derive
from modelwright.environments.tasks import chains
from modelwright.formats.huggingface import load_model
from modelwright.model.flops import matmul_parameters
from modelwright.stages import finetune
from modelwright.stages.cells import cell
from modelwright.stages.finetune import Config as FinetuneConfig
from modelwright.stages.rationale_findings import ARMS, REFERENCE, Costs, Findings, Measured
from modelwright.stages.rationale_page import render, table
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.chat import render as render_chat

INPUTS: tuple[str, ...] = ("base",)
PAGE, FIGURES = "rationales.html", "rationales.json"
NEVER = 10**9
HELD_OUT = 16
"""Problems on which a student's loss is measured when it is trained; nothing is decided by it."""
SLOTS = 128
"""Answers that are written at the same time, at most."""
TAUGHT = {"answers": (False,), "rationales": (True,), "both": (False, True)}
"""What is learned from -> whether the teacher's rows have its steps."""


class Config(config.Config):
    """Which students are compared."""

    finetune: FinetuneConfig = FinetuneConfig()
    """The recipe's fine-tuning; its sources, its epochs and when it measures are set by the study."""
    problems: tuple[int, ...] = Field(default=(250, 500, 1000, 2000), min_length=1)
    """Problems that the teacher has written for."""
    more_answers: tuple[int, ...] = (4000,)
    """More of them, for answers alone: how far these come in the end."""
    seeds: int = Field(default=3, ge=2)
    """Students of each kind; each has problems of its own."""
    terms: int = Field(default=chains.TERMS, ge=2, le=8)
    """Digits in a problem."""
    epochs: int = Field(default=8, gt=0)
    """How often each row is learned."""
    asked: int = Field(default=400, ge=2)
    """Problems to judge by, the same for all."""
    max_tokens: int = Field(default=64, gt=0)
    """Longest answer."""
    teacher_times: float = Field(default=10.0, gt=0)
    """How many times the student's weights a teacher has, where costs are added up in FLOPs."""
    questions: tuple[int, ...] = (0, 10_000, 1_000_000)
    """How many questions a student answers in its life, where costs are added up."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of all intervals, over seeds and problems."""


class ExactWriter:
    """A teacher that is never wrong: it works the problem out. What it writes is the upper bound of what one
    could teach; its tokens are counted by whoever learns from it."""

    name = "exact"

    def write(self, prompts: Sequence[Prompt]) -> Any:
        """(place, answer) of each; a fault where it is asked for something else."""
        for place, prompt in enumerate(prompts):
            try:
                text = chains.worked_out(prompt.conversation.messages[-1].content)
            except ValueError as error:
                yield place, Answer(fault=str(error))
            else:
                yield place, Answer(text=text, finish_reason="stop", model=self.name)


@dataclass(frozen=True, slots=True)
class Taught:
    """What a teacher wrote for some problems."""

    rows: list[dict[str, Any]]
    """Conversations that passed, for finetune."""
    tokens: int
    """Read and written by the teacher for all of them, those that were refused among them."""
    refused: int
    """Answers that failed, or whose result the verifier found wrong."""


def run(config: Config, run: Run, writer: Writer | None = None, view: View | None = None) -> Artifact:
    """Teach and ask every student, compare; leave the figures and a page."""
    writer = writer or ExactWriter()
    tokenizer = BPETokenizer.load(run.input("base").file("model"))
    judged = chains.draw(derive(run.seed, "judged"), config.asked, "test", config.terms)
    others = chains.draw(derive(run.seed, "held out"), HELD_OUT, "test", config.terms)
    cells = [
        (seed, amount, way)
        for seed in range(config.seeds)
        for way in TAUGHT
        for amount in (*config.problems, *(config.more_answers if way == REFERENCE[0] else ()))
    ]
    found: list[Measured] = []
    spent: dict[str, float] = {"tokens": 0, "flops": 0.0}
    with run.progress("students", len(cells)) as bar:
        for seed, amount, way in cells:
            problems = chains.draw(derive(run.seed, "learned", seed), amount, "train", config.terms)
            taught = teach(writer, problems, TAUGHT[way], tokenizer, run.seed)
            unseen = teach(writer, others, TAUGHT[way], tokenizer, run.seed)
            student = train(config, run, taught, unseen, f"{way}-{amount}-{seed}", seed, view)
            found += examine(config, run, student, taught, judged, way, amount, seed)
            spent["tokens"] += student.manifest.cost.tokens
            spent["flops"] += student.manifest.cost.flops
            bar.advance()
    size = matmul_parameters(load_model(run.input("base").file("model")).config)
    costs = Costs(size, config.teacher_times * size, config.questions)
    findings = Findings(tuple(found), costs, config.confidence, writer.name)
    write_json(run.dir / FIGURES, findings.as_json())
    write_text(run.dir / PAGE, render(findings))
    for line in (*table(findings), "", *findings.sentences()):
        run.log(line)
    return run.finish([FIGURES, PAGE], {}, tokens=int(spent["tokens"]), flops=spent["flops"])


def teach(
    writer: Writer, problems: Sequence[Problem], ways: Sequence[bool], tokenizer: BPETokenizer, seed: int
) -> Taught:
    """The teacher's rows for the problems, with its steps or without, or a row of each. What the verifier
    does not pass is paid for, and not learned. `UserError` where nothing is left."""
    asked = [chains.stepwise(problem) if steps else problem for problem in problems for steps in ways]
    sampling = Sampling(max_tokens=256, seed=seed)
    prompts = [
        Prompt(conversation=Conversation(messages=_messages(each)), sampling=sampling) for each in asked
    ]
    rows: dict[int, dict[str, Any]] = {}
    tokens = 0
    for place, answer in writer.write(prompts):
        question = prompts[place].conversation
        read, written = _sizes(tokenizer, question, answer)
        tokens += read + written
        if not answer.fault and chains.score(asked[place], answer.text).value == 1:
            turns = (*question.messages, Message(role="assistant", content=answer.text))
            rows[place] = {"messages": [{"role": each.role, "content": each.content} for each in turns]}
    if not rows:
        raise UserError(f"none of {len(asked):,} answers of the teacher {writer.name} passes the verifier")
    return Taught([rows[place] for place in sorted(rows)], tokens, len(asked) - len(rows))


def train(
    config: Config,
    run: Run,
    taught: Taught,
    held_out: Taught,
    name: str,
    seed: int,
    view: View | None,
) -> Artifact:
    """A student, with the seed that its counterparts have."""
    own = {
        "sources": [{"path": str(_kept(run, taught)), "licence": "CC0-1.0"}],
        "validation_sources": [{"path": str(_kept(run, held_out)), "licence": "CC0-1.0"}],
        "epochs": config.epochs,
        "conversations": len(taught.rows),
        "validate_every": NEVER,
        "checkpoint_every": NEVER,
        "keep_checkpoints": 1,
    }
    settings = FinetuneConfig.model_validate({**config.finetune.model_dump(), **own})
    return cell(run, finetune, "sft", settings, name, {"model": run.input("base")}, view, seed + 1)


def _kept(run: Run, taught: Taught) -> Path:
    """The file of some rows, under a name that stands for them."""
    text = "".join(json.dumps(row) + "\n" for row in taught.rows)
    path = run.dir / "rows" / f"{sha256_text(text)[:16]}.jsonl"
    if not path.is_file():
        path.parent.mkdir(exist_ok=True)
        write_text(path, text)
    return path


def examine(
    config: Config,
    run: Run,
    student: Artifact,
    taught: Taught,
    problems: Sequence[Problem],
    way: str,
    amount: int,
    seed: int,
) -> list[Measured]:
    """The student's marks, asked in every way that it was taught; kept beside it, since to ask takes time."""
    asked = [steps for taught_by, steps in ARMS if taught_by == way]
    mark = sha256_text(canonical_json([[each.id for each in problems], asked, config.max_tokens]))
    file = student.path / f"marks-{mark[:12]}.json"
    if not file.is_file():
        folder = student.file("model")
        tokenizer, model = BPETokenizer.load(folder), load_model(folder)
        marks = [_ask(run, model, tokenizer, problems, steps, config.max_tokens) for steps in asked]
        write_json(file, marks)
    flops = student.manifest.cost.flops
    return [
        Measured(
            taught=way,
            steps=steps,
            problems=amount,
            seed=seed,
            marks=tuple(said["marks"]),
            teacher_tokens=taught.tokens,
            refused=taught.refused,
            training_flops=flops,
            read=said["read"],
            written=said["written"],
        )
        for steps, said in zip(asked, read_json(file), strict=True)
    ]


def _ask(
    run: Run,
    model: Any,
    tokenizer: BPETokenizer,
    problems: Sequence[Problem],
    steps: bool,
    max_tokens: int,
) -> dict[str, Any]:
    """Marks, and tokens read and written per question, greedily."""
    if run.sampler_of is None:
        raise UserError("a study asks its students, and nobody answers here: start it as a command")
    asked = [chains.stepwise(problem) if steps else problem for problem in problems]
    ids = [_ids(tokenizer, Conversation(messages=_messages(each))) for each in asked]
    sampler = run.sampler_of(model.eval(), tokenizer, SLOTS, use_compiled=True)
    answers = sampler.sample(ids, Sampling(max_tokens=max_tokens))
    marks = [
        int(chains.score(problem, answer.text).value == 1)
        for problem, answer in zip(asked, answers, strict=True)
    ]
    count = len(asked)
    return {
        "marks": marks,
        "read": sum(map(len, ids)) / count,
        "written": sum(len(answer.ids) for answer in answers) / count,
    }


def _messages(problem: Problem) -> tuple[Message, ...]:
    assert not isinstance(problem.prompt, str)
    return problem.prompt


def _ids(tokenizer: BPETokenizer, conversation: Conversation) -> list[int]:
    return render_chat(tokenizer, conversation, add_generation_prompt=True).ids


def _sizes(tokenizer: BPETokenizer, question: Conversation, answer: Answer) -> tuple[int, int]:
    """Tokens read and written, as the teacher says, or as the student would count them."""
    read = len(_ids(tokenizer, question)) if answer.prompt_tokens is None else answer.prompt_tokens
    written = len(tokenizer.encode(answer.text)) + 1 if answer.tokens is None else answer.tokens
    return read, written


def check(settings: dict[str, Any]) -> Config:
    """The settings of a study, or an error before any work."""
    return config.validate(Config, settings, "the settings of the study")


def study(
    folder: Path,
    base: Path,
    chosen: Config,
    seed: int,
    sampler_of: Callable[..., Sampler],
    view: View | None = None,
) -> Artifact:
    """The study over a base model in `folder`: what the command line calls. `sampler_of`: see base/run.py."""
    work = Run(folder, "rationale_study", "study", chosen, seed, {"base": Artifact.load(base)}, view)
    work.sampler_of = sampler_of
    try:
        return run(chosen, work, view=view)
    finally:
        work.close()

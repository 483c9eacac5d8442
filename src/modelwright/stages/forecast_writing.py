"""What stations need in which a model writes: `synthesize`, and the student's own answers in a distillation.

Nobody knows beforehand how long answers will be, or how many are asked for again, so tokens, time and money
are upper bounds: every answer has the greatest length that the settings allow, and nothing is left out early.
Prompts are counted in letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelwright.base.device import bf16_is_faster
from modelwright.base.errors import UserError
from modelwright.base.schema import Conversation, Message
from modelwright.data.conversations.sides import conversations_from
from modelwright.data.readers.faults import Faults
from modelwright.data.synthesis.method import Most, letters_of
from modelwright.data.synthesis.rubric import rubric_prompt
from modelwright.data.synthesis.tasks import tasks_of
from modelwright.formats.locate import resolve_model
from modelwright.planning.forecast import ROOM, StationForecast, energy_wh
from modelwright.planning.machines import Machine, Prices
from modelwright.planning.memory import CPU_BASE, CUDA_BASE
from modelwright.planning.shape import Shape
from modelwright.planning.taught import Teacher
from modelwright.planning.writing import Writing
from modelwright.stages.forecast_rows import BYTES_PER_TOKEN, TURN_TOKENS, mean_prompt

OWN_SLOTS = 128
"""Answers that a student writes at once, at most (stages/on_policy.py)."""
START = 2.0
"""Seconds of opening inputs and of hashing what was made."""


@dataclass(frozen=True, slots=True)
class _Named:
    """Settings that name a model's folder."""

    model: Path


@dataclass(frozen=True, slots=True)
class _Model:
    """A writer or a judge on this machine."""

    shape: Shape
    held: float
    """Bytes of its weights."""
    seconds: float
    flops: float
    cache: float


def synthesis(station: str, config: Any, machine: Machine, prices: Prices) -> StationForecast:
    """The forecast of `synthesize`: its writer's answers, and its judge's."""
    most = _most(config)
    answer, unbounded = _longest(config.writer, config.sampling.max_tokens)
    who = {"writer": (config.writer, _writing(config.writer, most.answers, most.letters, answer))}
    if config.judge:
        who["judge"] = config.judge.writer, _judging(config, most, answer)
    models, notes = list[_Model](), list[str]()
    for name, (settings, writing) in who.items():
        notes.append(
            f"{name}: at most {writing.answers:,.0f} answers of {writing.answer:,.0f} tokens,"
            f" {writing.written:,} written and about {writing.read:,} read; fewer where answers end earlier"
        )
        found = _model(settings, writing, machine)
        models += [found] if isinstance(found, _Model) else []
        notes += [f"{name}: {found}"] if isinstance(found, str) else []
    notes += [unbounded] if unbounded else []
    if hasattr(config.writer, "url") and not (config.price.prompt or config.price.written):
        notes.append("no price is stated (synthesize.price), so no money is counted for its tokens")
    paid = _paid(config, {name: writing for name, (_, writing) in who.items()})
    in_sum = paid if config.price.currency == prices.currency else 0.0
    if paid > in_sum:
        notes.append(f"at most {paid:,.2f} {config.price.currency} for tokens, which is not in the sum")
    base = CUDA_BASE if machine.kind == "gpu" and models else CPU_BASE
    memory = {"weights": sum(each.held for each in models), "cache": sum(each.cache for each in models)}
    memory["process"] = float(base)
    seconds = START + sum(each.seconds for each in models)
    energy, peak = energy_wh(machine, seconds), sum(memory.values())
    return StationForecast(
        station=station,
        about="formula; an upper bound",
        parameters=models[0].shape.parameters if models else 0,
        tokens=who["writer"][1].written,
        flops=sum(each.flops for each in models),
        seconds=seconds,
        memory={name: size for name, size in memory.items() if size},
        peak_memory=peak,
        fits=None if machine.kind == "gpu" and not models else peak <= ROOM * machine.memory,
        energy_wh=energy,
        money=prices.of(machine.name, seconds, 1, energy) + in_sum,
        paid=paid,
        paid_in=config.price.currency,
        notes=tuple(notes),
        at_most=True,
    )


def _most(config: Any) -> Most:
    """What the method asks of the prompts that there are."""
    read = conversations_from(
        config.sources,
        0,
        config.prompts,
        "train",
        Faults("skip"),
        config.policy,
        whole=not config.method.shows_requests,
        answered=False,
    )
    prompts = [task.prompt for task in tasks_of(read)]
    if not prompts:
        raise UserError("synthesize.sources hold no prompt: nothing can be planned")
    letters = sum(len(each.content.encode()) for prompt in prompts for each in prompt.messages) / len(prompts)
    return config.method.most(len(prompts), letters, config.samples)


def _writing(settings: Any, answers: int, letters: float, answer: int) -> Writing:
    prompt = letters / answers / BYTES_PER_TOKEN + 2 * TURN_TOKENS
    return Writing(answers=answers, prompt=prompt, answer=answer, slots=getattr(settings, "slots", 1))


def _judging(config: Any, most: Most, answer: int) -> Writing:
    """A judgement of each row, which repeats the prompt and the answer. Of several samples all are judged
    that are kept."""
    rows = most.rows if config.keep == "all" else -(-most.rows // config.samples)
    text = "x" * round(most.letters / most.answers)
    said = Message(role="assistant", content="x" * round(answer * BYTES_PER_TOKEN))
    row = Conversation(messages=(Message(role="user", content=text), said))
    letters = rows * letters_of(rubric_prompt(config.judge, row, 0))
    longest, _ = _longest(config.judge.writer, config.judge.max_tokens)
    return _writing(config.judge.writer, rows, letters, longest)


def _longest(settings: Any, max_tokens: int) -> tuple[int, str]:
    """(tokens of an answer at most, what to say where the endpoint is told of no bound)."""
    body: Mapping[str, Any] = getattr(settings, "body", {})
    stated = [
        body[name] for name in ("max_tokens", "max_completion_tokens") if isinstance(body.get(name), int)
    ]
    if stated or body.get("max_tokens", max_tokens) is not None:
        return max(stated, default=max_tokens), ""
    return max_tokens, f"body takes max_tokens out: {max_tokens:,} is a guess, and no bound"


def _model(settings: Any, writing: Writing, machine: Machine) -> _Model | str:
    """Who writes here; or why nothing is known of time and memory."""
    if hasattr(settings, "url"):
        return "an endpoint; how fast it answers is not known, so no time is counted"
    name = Path(settings.model).expanduser()
    if not settings.model:
        return "nobody is named, so no time and no memory is counted"
    try:  # what is not here yet may have a known shape
        found = Teacher.of(_Named(resolve_model(name) if name.exists() else name))
    except UserError as error:
        return f"no time and no memory is counted. {error}"
    assert found is not None
    here = machine.kind == "cpu"
    wanted = settings.dtype
    if wanted == "auto":
        wanted = "bfloat16" if not here or bf16_is_faster("cpu") else "float32"
    product = 2 if wanted == "bfloat16" else 4
    held = found.held_bytes(product)
    return _Model(
        found.shape,
        held,
        writing.seconds(found.shape, machine, wanted, held),
        writing.flops(found.shape),
        writing.cache_bytes(found.shape, product),
    )


def _paid(config: Any, who: Mapping[str, Writing]) -> float:
    """For tokens, in the settings' currency."""
    judge = config.judge.price if config.judge and config.judge.price else config.price
    prices = {"writer": config.price, "judge": judge}
    return sum(prices[name].of(each.read, each.written) for name, each in who.items())


def own_answers(
    config: Any, conversations: list[Conversation], count: float, micro_batches: int
) -> Writing | None:
    """What a student writes in a share of its micro-batches; None where it writes nothing. `count`: examples
    over all epochs."""
    teacher = getattr(config, "teacher", None)
    if teacher is None or not teacher.on_policy:
        return None
    each = count / micro_batches
    return Writing(
        answers=teacher.on_policy * count,
        prompt=min(mean_prompt(conversations), config.context),
        answer=min(teacher.max_tokens, config.context),
        slots=max(1, min(OWN_SLOTS, round(each))),
        compiled=config.adapter is None,
    )

"""finetune: conversations -> a model that answers (supervised fine-tuning of all weights, or an adapter)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from modelwright.base.artifact import Artifact
from modelwright.base.device import Device
from modelwright.base.metrics import counted
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.base.schema import Conversation
from modelwright.base.seams import Objective
from modelwright.base.world import place
from modelwright.data.sources import mark, stated
from modelwright.data.split import SIDES
from modelwright.environments.task import select
from modelwright.model.flops import MeanToken, mean_token
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.stages.adapting import ADAPTER, Trainable, check_trainable, keep_trained, load_to_train
from modelwright.stages.new_tokens import NewTokens, NewTokensConfig, tokenizer_in, with_tokens
from modelwright.stages.new_tokens import mark as mark_of_tokens
from modelwright.stages.new_tokens import remarks as remarks_on_tokens
from modelwright.stages.on_policy import ON_POLICY, OnPolicy
from modelwright.stages.retention import FORGETTING, ForgettingConfig, Retention, nobody_answers
from modelwright.stages.samples import SAMPLES, Samples, SamplesConfig
from modelwright.stages.search_settings import SearchConfig
from modelwright.stages.teacher import TeacherConfig, distillation, only_one_process
from modelwright.stages.teacher import facts as facts_of_teacher
from modelwright.stages.teacher import mark as mark_of_teacher
from modelwright.stages.training import check_compute, check_steps, spread_model, train_model
from modelwright.stages.views import DROPPED, ConversationView, held_out_loss
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.batches import Grouped, Packed
from modelwright.training.compute import ComputeConfig, resolve
from modelwright.training.loop import LoopConfig
from modelwright.training.step_plan import StepPlan

INPUTS: tuple[str, ...] = ("model",)
OPTIONAL: tuple[str, ...] = ("examples",)
"""Used where there are any: the rows that `synthesize` has written."""
MADE = ("model", ADAPTER, "metrics.jsonl", DROPPED, SAMPLES, FORGETTING, ON_POLICY)
TOGETHER = True
"""All processes run this stage, where there are several."""


class Config(LoopConfig, ConversationView, Trainable):
    """Which conversations, how often, in which pieces; and what of the model learns from them."""

    new_tokens: NewTokensConfig | None = None
    """Tokens that the tokenizer lacks. None: none."""
    z_loss: float = Field(default=0.0, ge=0)
    """Weight of what keeps logits from drifting away (arXiv 2204.02311 takes 1e-4); 0: none."""
    compute: ComputeConfig = ComputeConfig()
    """Device, number format, compilation."""
    search: SearchConfig | None = None
    """What `finetune --search` tries before it trains. None: the defaults of that."""
    samples: SamplesConfig | None = None
    """Prompts that are answered along the way, to see what is learned. None: none."""
    forgetting: ForgettingConfig | None = None
    """What is compared before and after, to see what is lost. None: nothing."""
    teacher: TeacherConfig | None = None
    """A model whose probabilities are learned at the same tokens (distillation). None: the tokens alone."""

    @model_validator(mode="after")
    def _one_loss(self) -> Self:
        if self.teacher and self.z_loss:
            raise ValueError("z_loss is part of the loss without a teacher: leave out z_loss, or teacher")
        if self.new_tokens and self.freeze.embeddings:
            raise ValueError("freeze.embeddings keeps new tokens from learning: leave one of the two out")
        if self.adapter and self.adapter.dropout and self.compute.activation_checkpointing != "none":
            raise ValueError(
                "adapter.dropout draws anew in what compute.activation_checkpointing computes again: leave"
                " one of the two out"
            )
        return self


def check(config: Config) -> None:
    """Raises UserError where a suite that is to be asked is unknown, no row would be held out, or steps are
    asked for that cannot be."""
    check_steps(config)
    if config.forgetting:
        select(config.forgetting.suites)
    config.check_held_out()


def check_line(config: Config, stations: Mapping[str, Any]) -> None:
    """Raises ConfigError where what the stations before it make has not what is to be trained."""
    check_trainable(config, config.compute, stations)


def check_here(config: Config) -> None:
    """Raises UserError where this machine and its processes cannot train so."""
    check_compute(config.compute, replicated=config.adapter is not None)
    if place().size > 1:
        if config.teacher:
            raise only_one_process()
        if config.forgetting:
            raise nobody_answers()


def remarks(config: Config, model: Path | None) -> list[str]:
    """What is worth a word before the station works on a model, whose folder may not be there yet."""
    return remarks_on_tokens(config.new_tokens, tokenizer_in(model)) if config.new_tokens else []


def sources(config: Config) -> str:
    """A mark of what the sources and the teacher hold now: when it changes, the stage runs anew."""
    read = mark((*config.sources, *config.validation_sources))
    read += mark_of_tokens(config.new_tokens)
    return f"{read} {mark_of_teacher(config.teacher)}" if config.teacher else read


def facts(config: Config) -> Provenance:
    """What the sources and the teacher state, for the policy: known before any work."""
    found = stated(config.sources)
    return found + facts_of_teacher(config.teacher) if config.teacher else found


def run(config: Config, run: Run) -> Artifact:
    """Train on the assistant's turns; leave a Hugging Face folder and the last checkpoints."""
    config = config.given(run.inputs)
    with with_tokens(config.new_tokens, run.input("model").file("model"), run.log) as new:
        return _train(config, run, new)


def _train(config: Config, run: Run, new: NewTokens) -> Artifact:
    parent = run.input("model").file("model")
    tokenizer = BPETokenizer.load(new.folder)
    device = resolve(config.compute)
    model = load_to_train(config, parent, device, run, new)
    spread = spread_model(model, config.compute, device, run, replicated=config.adapter is not None)
    learned, held_out = (config.pack(side, tokenizer, run, run.seed) for side in SIDES)
    batches, digest = learned.batches, learned.batches.digest()
    plan, tokens = config.plan(len(batches)), batches.num_positions
    mean = mean_token(batches.__getitem__, len(batches))
    objective, taught = _objective(config, tokenizer, device, run, mean)
    per_token = mean.training_flops(model.config, frozen=config.adapter is not None) + taught
    new.look_for(learned.batches)
    run.log(f"{counted(plan.steps, 'step')}, {tokens:,} tokens; sha256 of what is learned: {digest}")
    run.log(mean.describe(per_token))
    own = _own_answers(config, batches, plan, model, tokenizer, run)
    # Answers are written with the weights of their step, which are not there ahead of it.
    steps = config.model_copy(update={"prefetch": 0}) if own else config
    samples = _samples(config, model, tokenizer, held_out.kept(), run)
    retention = Retention(config.forgetting, model, tokenizer, run) if config.forgetting else None
    trained = train_model(
        run,
        steps,
        config.compute,
        device,
        spread,
        model,
        objective,
        own or batches,
        plan,
        validate=partial(held_out_loss, spread, held_out.batches),
        flops=per_token * tokens,
        flops_per_token=per_token,
        show=samples,
    )
    measure = partial(held_out_loss, held_out=held_out.batches)
    kept = keep_trained(config, run, spread, model, parent, new, trained.metrics, measure)
    metrics = {"steps": trained.steps, "conversations": len(batches.kept), "view_sha256": digest}
    metrics |= {"new_tokens": dict(new.ids)} if new.ids else {}
    metrics |= kept | trained.metrics | learned.counts() | (retention.report() if retention else {})
    metrics |= own.report() if own else {}
    made = [name for name in MADE if (run.dir / name).exists()]
    spent = per_token * trained.tokens + (own.flops() if own else 0.0)
    return run.finish(made, metrics, tokens=trained.tokens, flops=spent)


def _objective(
    config: Config, tokenizer: BPETokenizer, device: Device, run: Run, mean: MeanToken
) -> tuple[Objective, float]:
    """(what is made small, FLOPs a token that it takes besides the model's own)."""
    if config.teacher is None:
        return NextToken(config.z_loss), 0.0
    return distillation(config.teacher, tokenizer, device, run, mean)


def _own_answers(
    config: Config,
    given: Packed | Grouped,
    plan: StepPlan,
    model: Transformer,
    tokenizer: BPETokenizer,
    run: Run,
) -> OnPolicy | None:
    """The rows with the student's own answers among them, where that is wanted."""
    teacher = config.teacher
    if teacher is None or not teacher.on_policy:
        return None
    whole = config.adapter is None
    return OnPolicy(given, teacher, plan, model, tokenizer, run, context=config.context, use_compiled=whole)


def _samples(
    config: Config,
    model: Transformer,
    tokenizer: BPETokenizer,
    held_out: Sequence[Conversation],
    run: Run,
) -> Samples | None:
    """What shows answers along the way, where that is wanted and one process holds the model."""
    if config.samples is None or run.sampler_of is None:
        if config.samples is not None:
            run.log("no samples are shown: the model is not held by one process alone")
        return None
    return Samples(config.samples, model, tokenizer, held_out, run, config.validate_every)

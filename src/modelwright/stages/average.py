"""average: what a training stage left behind -> the weight average that validates best, if it is better.

Candidates are the weights that the stage handed on, its last ones where it kept others, every running average
that it kept, the uniform average of its last checkpoints, power-function averages of other widths out of its
snapshots, and a greedy soup of all of them. Each is judged as training was judged, text by text. Half of the
held-out texts choose the best candidate; the other half, which had no part in the choice, has to show by a
paired test that it beats the stage's own, or those are handed on. All is reported in `candidates.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config as BaseConfig
from modelwright.base.errors import DamagedFile, UserError
from modelwright.base.files import atomic_directory, write_json
from modelwright.base.metrics import in_words
from modelwright.base.run import Run
from modelwright.compression.average import greedy_soup, uniform, weighted
from modelwright.compression.post_hoc import coefficients
from modelwright.evaluation.statistics import Difference
from modelwright.formats.huggingface import load_model, save_model
from modelwright.model.transformer import Transformer
from modelwright.objectives.next_token import NextToken
from modelwright.stages.judging import Judge, Scores, by_objective, by_text
from modelwright.stages.text_view import TextView
from modelwright.stages.views import ConversationView, PairView
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.shards import TokenShards
from modelwright.training.averages import UPDATES, average_from_state, names_in, power_exponent
from modelwright.training.checkpoint import Checkpoint, Checkpoints
from modelwright.training.keeping import BEST
from modelwright.training.loop import SNAPSHOTS

INPUTS: tuple[str, ...] = ("tokens", "model")
LAST = "last"
"""What candidates are compared with: the weights that the stage handed on. They are its last ones unless it
kept others (training/keeping.py); then the last ones are a candidate too."""
OWN = "the stage's own weights are handed on"
MIN_UNITS = 8
"""Held-out texts in each half below which no test is worth its name."""

V = TypeVar("V", bound=BaseConfig)
Weights = Mapping[str, Tensor]
Candidates = dict[str, Callable[[], Weights]]
"""Name -> what loads the weights: one candidate at a time is in memory."""


class Config(BaseConfig):
    """Which averages are made beside those that training kept, and what it takes to be chosen."""

    last: int = Field(default=3, gt=1)
    """Checkpoints in the uniform average; fewer if the stage kept fewer."""
    widths: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2)
    """Power-function averages to make out of snapshots, where the stage left some (averages.snapshots)."""
    soup: bool = True
    """Whether the candidates are also stirred together, one after the other, as long as that helps."""
    validation_tokens: int = Field(default=25_000, gt=0)
    """Held-out tokens that each candidate's bits per byte is measured on."""
    confidence: float = Field(default=0.95, gt=0, lt=1)
    """Of the intervals, and of the test that a candidate has to pass."""
    margin: float = Field(default=0.0, ge=0)
    """How much better than the stage's own weights a candidate has to be, beyond doubt."""


def run(config: Config, run: Run) -> Artifact:
    """Measure all candidates, save the best as a Hugging Face folder."""
    source = run.input("model")
    parent = source.file("model")
    tokenizer = BPETokenizer.load(parent)
    model = load_model(parent)
    shards = TokenShards.open(run.input("tokens").file("validation"))
    text = by_text(TextView(validation_tokens=config.validation_tokens), model, shards, tokenizer)
    judge = judge_of(source, model, tokenizer, run) or text
    candidates = gather(source, config)
    put = partial(place, model, frozenset(candidates[LAST]()))
    scores: dict[str, Scores] = {}
    rows: list[dict[str, Any]] = []
    with run.progress("candidates", len(candidates)) as bar, torch.no_grad():
        for name, weights in candidates.items():
            put(weights())
            scores[name] = judge.measure()
            rows.append({"candidate": name} | ({} if judge is text else {text.metric: text.measure().value}))
            bar.advance()
        if config.soup and len(candidates) > 1:
            soup = stir(put, judge, candidates, scores, run)
            candidates["soup"] = lambda: soup
            rows.append(
                {"candidate": "soup"} | ({} if judge is text else {text.metric: text.measure().value})
            )
    best, test = choose(scores, config)
    for row in rows:
        name = row["candidate"]
        row |= {judge.metric: scores[name].value, "chosen": name == best}
        if name != LAST:
            row |= interval(scores[name].against(scores[LAST], config.confidence))
        run.log(describe(row))
    run.log(verdict(best, test, judge, config))
    put(candidates[best]())
    with atomic_directory(run.dir / "model") as folder:
        save_model(folder, model, parent)
    found = {"judged_by": judge.metric, "unit": judge.unit, "confidence": config.confidence}
    found["test"] = {name: {**interval(each), "n": each.n} for name, each in test.items()}
    write_json(run.dir / "candidates.json", {**found, "candidates": rows})
    chosen = next(row for row in rows if row["candidate"] == best)
    return run.finish(["model", "candidates.json"], {**chosen, "averaged_stage": source.stage})


def choose(scores: Mapping[str, Scores], config: Config) -> tuple[str, dict[str, Difference]]:
    """The candidate to hand on; and its name with the test on the other half, where there was one to make.

    One half of the held-out texts picks one candidate, and one test is made on the other half, so that
    looking at many candidates makes none of them look better than it is.
    """
    picked = min(scores, key=lambda name: scores[name].half(0).value)
    judged = {name: each.half(1) for name, each in scores.items()}
    if picked == LAST or len(judged[LAST].sizes) < MIN_UNITS:
        return LAST, {}
    found = judged[picked].against(judged[LAST], config.confidence)
    return (picked if found.high < -config.margin else LAST), {picked: found}


def interval(found: Difference) -> dict[str, float]:
    """A difference from the stage's own weights for a file; below 0 is better."""
    return {"difference": found.mean, "low": found.low, "high": found.high}


def verdict(best: str, test: Mapping[str, Difference], judge: Judge, config: Config) -> str:
    """What was chosen and why, for the log."""
    if not test:
        return f"{OWN}: no other candidate did better where that could be tested"
    (name, found), *_ = test.items()
    ends = f"{found.mean:+.5f} [{found.low:+.5f}, {found.high:+.5f}] {in_words(judge.metric)}"
    means = "it is handed on" if best != LAST else f"not beyond doubt: {OWN}"
    return f"{name} against last on {found.n} {judge.unit} that had no part in the choice: {ends}: {means}"


def place(model: Transformer, names: Set[str], weights: Weights) -> None:
    """Put a candidate, which must consist of `names`, into the model. Frozen weights stay as they are."""
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    if unknown or weights.keys() != names:
        others = sorted(weights.keys() ^ names)
        raise DamagedFile(
            f"a candidate's {len(weights)} weights are not those of the model: {len(unknown)} are none of its"
            f" {unknown[:3]}, {len(others)} are missing or more than the stage's own {others[:3]}. Train anew"
        )


def stir(
    put: Callable[[Weights], None],
    judge: Judge,
    candidates: Candidates,
    scores: dict[str, Scores],
    run: Run,
) -> Weights:
    """The greedy soup of all candidates, by the half of the texts that chooses; adds its scores."""

    def score(weights: Weights) -> float:
        put(weights)
        scores["soup"] = judge.measure()
        return scores["soup"].half(0).value

    ranked = sorted(candidates, key=lambda name: scores[name].half(0).value)
    stirred, soup = greedy_soup(ranked, lambda name: candidates[name](), score)
    score(soup)
    run.log(f"soup of {', '.join(stirred)}")
    return soup


def describe(row: Mapping[str, Any]) -> str:
    """A candidate's figures for the log, and whether it was chosen."""
    figures = [f"{in_words(name)} {value:.4f}" for name, value in row.items() if isinstance(value, float)]
    return f"{row['candidate']}{' (chosen)' if row['chosen'] else ''}: {', '.join(figures)}"


def gather(source: Artifact, config: Config) -> Candidates:
    """What there is to choose from, of a training stage; the weights that it handed on come first. Frozen
    weights, which are the same in all, are not among them."""
    if source.manifest.config.get("adapter"):
        raise UserError(
            f"{source.path} trained an adapter, and averages of A and of B are no average of their product:"
            " leave the station average out of this recipe"
        )
    kept = Checkpoints(source.path / "checkpoints", keep=1).all()
    if not kept:
        raise UserError(f"{source.path} has no checkpoints to average: run '{source.stage} --force'")
    for checkpoint in kept:
        checkpoint.verify()
    tail = kept[-config.last :]
    averages = tail[-1].tensors("averages")
    end, handed_on = tail[-1], _handed_on(source, tail[-1])
    found: Candidates = {LAST: lambda: handed_on.tensors("model")}
    if handed_on.step != end.step:
        found[f"after step {end.step:,}"] = lambda: end.tensors("model")
    for name in names_in(averages):
        if int(averages[f"{name}/{UPDATES}"]):
            found[name] = lambda name=name: average_from_state(averages, name)
    if len(tail) > 1:
        found[f"uniform of last {len(tail)}"] = lambda: uniform(each.tensors("model") for each in tail)
    return found | post_hoc(source, config.widths)


def _handed_on(source: Artifact, end: Checkpoint) -> Checkpoint:
    """The weights that a stage whose last checkpoint is `end` handed on."""
    kept = int(source.metrics.get("kept_step", end.step))
    if kept == end.step:
        return end
    best = Checkpoint(source.path / BEST / "checkpoints" / f"step-{kept:08d}", kept)
    best.verify()
    return best


def post_hoc(source: Artifact, widths: tuple[float, ...]) -> Candidates:
    """Power-function averages of these widths, out of the snapshots that a stage has left."""
    snapshots = Checkpoints(source.path / SNAPSHOTS / "checkpoints", keep=1).all()
    stored: list[tuple[int, str, int]] = []
    """(place of the snapshot, name of the average in it, updates)"""
    for place, snapshot in enumerate(snapshots):
        snapshot.verify()
        state = snapshot.tensors("averages")
        counts = {name: int(state[f"{name}/{UPDATES}"]) for name in names_in(state)}
        stored += [(place, name, count) for name, count in counts.items() if count]
    if not stored:
        return {}
    profiles = [(count, power_exponent(float(name.removeprefix("power ")))) for _, name, count in stored]
    end = max(count for count, _ in profiles)

    def load(width: float) -> Weights:
        shares, _ = coefficients(profiles, (end, power_exponent(width)))
        states = (average_from_state(snapshots[place].tensors("averages"), name) for place, name, _ in stored)
        return weighted(states, shares.tolist())

    kept = {float(name.removeprefix("power ")) for _, name, count in stored if count == end}
    return {
        f"power {width:g} from {len(snapshots)} snapshots": lambda width=width: load(width)
        for width in widths
        if width not in kept
    }


def judge_of(source: Artifact, model: Transformer, tokenizer: BPETokenizer, run: Run) -> Judge | None:
    """The held-out measure that the training stage itself used, from its manifest; None for bits per byte."""
    settings, seed = source.manifest.config, source.manifest.seed
    if source.stage == "finetune":
        view = view_of(ConversationView, settings).given(source.inputs())
        held_out = view.pack("validation", tokenizer, run, seed)
        return by_objective(model, NextToken(), held_out.batches, "rows of conversations")
    if source.stage == "align":
        start = next(parent for parent in source.manifest.parents if parent.role == "model")
        start_model, lost = source.parent(start)
        if start_model is None:
            raise UserError(f"the reference that {source.path} was aligned against is {lost}: align again")
        reference, view = load_model(start_model.file("model")), view_of(PairView, settings)
        pairs = view.pair_up("validation", reference, tokenizer, run, seed)
        return by_objective(model, view.loss(), pairs, "pairs")
    return None


def view_of(kind: type[V], settings: Mapping[str, Any]) -> V:
    """As a manifest has it; what an older one does not know is as it was then, by default."""
    return kind.model_validate({name: settings[name] for name in kind.model_fields if name in settings})

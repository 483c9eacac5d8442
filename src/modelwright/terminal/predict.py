"""What comes next: the distribution over the next token, as bars, and the loop that makes text of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from modelwright.base.schema import Sampling
from modelwright.inference.penalties import Penalties
from modelwright.inference.sampling import Settings, Stage, check, choose, seed_of_copy, stages
from modelwright.inference.text import ByteTokenizer
from modelwright.terminal.load import Loaded, load
from modelwright.terminal.printable import printable

BAR = 24
"""Characters of a bar that stands for certainty."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could come next."""

    rank: int
    """Its place under the model, among the whole vocabulary."""
    id: int
    token: str
    """As shown: spaces and line breaks visible, bytes that are no text spelled out."""
    bytes: list[int]
    probability: float
    """The model's own."""
    drawn: float
    """After all steps; 0 for what they set aside."""
    set_aside_by: str | None
    """The filter that took it out."""


@dataclass(frozen=True, slots=True)
class Step:
    """One of the steps from the model's distribution to what is drawn from, and what it did."""

    name: str
    kept: int
    """Tokens that can still come."""
    moved: float
    """Probability that it moved from some tokens to others: half the sum of the differences from the step
    before. What a filter removes is what it moves."""
    removed: float
    """Probability, before this step, of the tokens that it set aside."""
    entropy_bits: float
    """Of what is left, renormalised: 0 is certain, log2(kept) is clueless."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One turn of the loop."""

    step: int
    text: str
    """What the model has read so far."""
    candidates: list[Candidate]
    steps: list[Step]
    """The model's own distribution first."""
    left: float
    """What the filters left of the probability, before it is renormalised to 1."""
    vocabulary: int
    tail: float
    """The model's probability of all tokens that are not listed."""
    pick: Candidate


def predict(
    model_path: Path | str,
    prompt: str,
    *,
    steps: int = 1,
    top: int = 10,
    sampling: Sampling | None = None,
    as_json: bool = False,
    device: str = "cpu",
    console: Console | None = None,
) -> None:
    """Show the next-token distribution after `prompt`, for `steps` tokens one after the other.

    Without `sampling` the most likely token is picked. With it, what is left after each of its steps
    (penalties, temperature, filters) is shown, and the pick is drawn from what they leave.
    """
    console = console or Console(highlight=False)
    loaded = load(model_path, device)
    predictions = look_ahead(loaded, prompt, steps=steps, top=top, sampling=sampling)
    if as_json:
        content = {"model": loaded.line, "prompt": prompt, "steps": [asdict(p) for p in predictions]}
        console.print(Text(json.dumps(content, ensure_ascii=False, indent=2)), soft_wrap=True)
        return
    console.print(Text(loaded.line, style="dim"), soft_wrap=True)
    for prediction in predictions:
        _show(console, prediction, sampling)


def look_ahead(
    loaded: Loaded, prompt: str, *, steps: int = 1, top: int = 10, sampling: Sampling | None = None
) -> list[Prediction]:
    """The autoregressive loop, step by step: distribution, pick, append, again.

    An empty prompt starts where a document starts. The loop ends early at a token that ends a text.
    """
    engine, tokenizer = loaded.engine, loaded.tokenizer
    ids = tokenizer.begin(prompt) or [tokenizer.end_of_text_id]
    start = len(ids)
    if sampling:
        check(sampling, engine.vocab_size)
    seed = seed_of_copy(sampling.seed, 0) if sampling else 0
    predictions: list[Prediction] = []
    for step in range(max(steps, 1)):
        logits = engine.next_logits(ids)
        before = ids[:start], ids[start:]
        chain = stages(logits, sampling or Sampling(temperature=1.0), *before)
        chosen = int(logits.argmax())
        if sampling:
            penalties = [Penalties.of(sampling, *before)]
            settings = Settings.of([sampling], [seed], len(logits), str(logits.device), penalties)
            choice = choose(logits[None], settings, [step])
            if fault := choice.fault(0):
                raise fault
            [chosen] = choice.ids
        predictions.append(
            _prediction(tokenizer, ids, chain, chosen, top, step + 1, drawn=sampling is not None)
        )
        ids.append(chosen)
        if chosen in engine.stop_ids or len(ids) >= engine.max_length:
            break
    return predictions


def _prediction(
    tokenizer: ByteTokenizer,
    ids: list[int],
    chain: list[Stage],
    chosen: int,
    top: int,
    step: int,
    *,
    drawn: bool,
) -> Prediction:
    own, last = chain[0].probabilities, chain[-1].probabilities
    probabilities, order = own.sort(descending=True, stable=True)

    def candidate(rank: int) -> Candidate:
        token = int(order[rank])
        gone = (stage.name for stage in chain if not stage.probabilities[token])
        return Candidate(
            rank=rank + 1,
            id=token,
            token=show_token(tokenizer, token),
            bytes=list(tokenizer.token_bytes(token)) if token < tokenizer.vocab_size else [],
            probability=float(probabilities[rank]),
            drawn=float(last[token]),
            set_aside_by=next(gone, None),
        )

    listed = min(max(top, 1), len(own))
    steps = [_step(stage, chain[max(place - 1, 0)]) for place, stage in enumerate(chain)]
    return Prediction(
        step=step,
        text=tokenizer.decode(ids),
        candidates=[candidate(rank) for rank in range(listed)],
        steps=steps,
        left=math.prod(1 - found.removed for found in steps),
        vocabulary=len(own),
        tail=float(probabilities[listed:].double().sum()),
        pick=candidate(int((order == chosen).nonzero()[0, 0])),
    )


def _step(stage: Stage, before: Stage) -> Step:
    now, earlier = stage.probabilities.double(), before.probabilities.double()
    return Step(
        name=stage.name,
        kept=int((now > 0).sum()),
        moved=float((now - earlier).abs().sum() / 2),
        removed=float(earlier[now == 0].sum()),
        entropy_bits=_entropy(now),
    )


def _entropy(probabilities: Tensor) -> float:
    """In bits."""
    return float(torch.special.entr(probabilities).sum()) / math.log(2)


def show_token(tokenizer: ByteTokenizer, token: int) -> str:
    """A token for human eyes: ␣ is a space, ⏎ a line break, ⇥ a tab, \\xNN a byte that is no text."""
    if token >= tokenizer.vocab_size:
        return f"(unused {token})"
    piece = tokenizer.token_bytes(token)
    text = piece.decode("utf-8", errors="backslashreplace")
    text = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return printable(text)


def _show(console: Console, prediction: Prediction, sampling: Sampling | None) -> None:
    """The candidates as a table of bars and, where something is drawn, the steps that lead there."""
    console.print()
    console.print(Text.assemble((f"{prediction.step}. ", "dim"), printable(prediction.text)), soft_wrap=True)
    table = _table("#", "id", "token", "model", *(["drawn from"] if sampling else []), "")
    rows = list(prediction.candidates)
    if prediction.pick.rank > len(rows):
        rows.append(prediction.pick)
    for candidate in rows:
        picked = candidate.id == prediction.pick.id
        cells = [
            f"{'→ ' if picked else ''}{candidate.rank}",
            Text(str(candidate.id), style="dim"),
            Text(candidate.token),
            _percent(candidate.probability),
        ]
        if sampling:
            out = candidate.set_aside_by
            cells.append(Text(f"not {out}", style="dim") if out else _percent(candidate.drawn))
        bar = "█" * round(candidate.probability * BAR) or "▏"
        style = "bold green" if picked else "dim" if candidate.set_aside_by else "cyan"
        table.add_row(*cells, Text(bar, style=style))
    console.print(table)
    vocabulary, listed = prediction.vocabulary, len(prediction.candidates)
    summary = (
        f"entropy {prediction.steps[0].entropy_bits:.2f} of at most {math.log2(vocabulary):.2f} bits · "
        f"{vocabulary - listed:,} other tokens {_percent(prediction.tail)} · "
        f"pick: number {prediction.pick.rank:,}"
    )
    console.print(Text(summary, style="dim"))
    if sampling:
        _show_steps(console, prediction, sampling)


def _show_steps(console: Console, prediction: Prediction, sampling: Sampling) -> None:
    """What each step kept and removed."""
    values = {"temperature": sampling.temperature, "top-k": sampling.top_k,
              "top-p": sampling.top_p, "min-p": sampling.min_p}  # fmt: skip
    table = _table("step", "kept", "probability", "entropy")
    for place, step in enumerate(prediction.steps):
        name = f"{step.name} {values[step.name]:g}" if step.name in values else step.name
        what = f"{'removed' if step.removed else 'moved'} {_percent(step.removed or step.moved)}"
        table.add_row(name, f"{step.kept:,}", what if place else "", f"{step.entropy_bits:.2f} bits")
    if prediction.left < 1:
        kept, removed = f"{prediction.steps[-1].kept:,}", _percent(1 - prediction.left)
        table.add_row("renormalised", kept, f"removed in all {removed}", "")
    console.print()
    console.print(table)


def _table(*names: str) -> Table:
    """Columns without lines; what is text stands left, numbers right."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name, justify="left" if name in ("token", "step", "") else "right")
    return table


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.00005 or share == 0 else f"{share:.0e}"

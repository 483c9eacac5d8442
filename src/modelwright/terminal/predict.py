"""What comes next: the distribution over the next token, as bars, and the loop that makes text of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelwright.base.schema import Sampling
from modelwright.inference.sampling import draw_one, seed_of_copy
from modelwright.inference.text import ByteTokenizer
from modelwright.terminal.load import Loaded, load
from modelwright.terminal.printable import printable

BAR = 30
"""Characters of a bar that stands for certainty."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token that could come next."""

    rank: int
    id: int
    token: str
    """As shown: spaces and line breaks visible, bytes that are no text spelled out."""
    bytes: list[int]
    probability: float
    """The model's own."""
    drawn: float | None
    """After temperature and filters; None when they are not looked at."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One step of the loop."""

    step: int
    text: str
    """What the model has read so far."""
    candidates: list[Candidate]
    entropy_bits: float
    """Of the whole distribution: 0 is certain, log2(vocabulary) is clueless."""
    tail: float
    """Probability of all tokens that are not listed."""
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

    Without `sampling` the most likely token is picked. With it, its temperature and filters are shown
    beside the model's own probabilities, and the pick is drawn from what they leave.
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
        _show(console, prediction, filtered=sampling is not None)


def look_ahead(
    loaded: Loaded, prompt: str, *, steps: int = 1, top: int = 10, sampling: Sampling | None = None
) -> list[Prediction]:
    """The autoregressive loop, step by step: distribution, pick, append, again.

    An empty prompt starts where a document starts. The loop ends early at a token that ends a text.
    """
    tokenizer = loaded.tokenizer
    ids = tokenizer.encode(prompt) or [tokenizer.end_of_text_id]
    seed = seed_of_copy(sampling.seed, 0) if sampling else 0
    predictions: list[Prediction] = []
    for step in range(max(steps, 1)):
        own = loaded.engine.next_token_distribution(ids)
        drawn = loaded.engine.next_token_distribution(ids, sampling) if sampling else None
        chosen = int(own.argmax()) if drawn is None else draw_one(drawn, seed, step)
        predictions.append(_prediction(tokenizer, ids, own, drawn, chosen, top, step + 1))
        ids.append(chosen)
        if chosen in loaded.engine.stop_ids or len(ids) >= loaded.engine.max_length:
            break
    return predictions


def _prediction(
    tokenizer: ByteTokenizer,
    ids: list[int],
    own: torch.Tensor,
    drawn: torch.Tensor | None,
    chosen: int,
    top: int,
    step: int,
) -> Prediction:
    probabilities, order = own.sort(descending=True, stable=True)

    def candidate(rank: int) -> Candidate:
        token = int(order[rank])
        known = token < tokenizer.vocab_size
        return Candidate(
            rank=rank + 1,
            id=token,
            token=show_token(tokenizer, token),
            bytes=list(tokenizer.token_bytes(token)) if known else [],
            probability=float(probabilities[rank]),
            drawn=None if drawn is None else float(drawn[token]),
        )

    listed = min(max(top, 1), len(own))
    return Prediction(
        step=step,
        text=tokenizer.decode(ids),
        candidates=[candidate(rank) for rank in range(listed)],
        entropy_bits=float(torch.special.entr(own.double()).sum() / torch.log(torch.tensor(2.0))),
        tail=float(probabilities[listed:].double().sum()),
        pick=candidate(int((order == chosen).nonzero()[0, 0])),
    )


def show_token(tokenizer: ByteTokenizer, token: int) -> str:
    """A token for human eyes: ␣ is a space, ⏎ a line break, ⇥ a tab, \\xNN a byte that is no text."""
    if token >= tokenizer.vocab_size:
        return f"(unused {token})"
    piece = tokenizer.token_bytes(token)
    text = piece.decode("utf-8", errors="backslashreplace")
    text = text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")
    return printable(text)


def _show(console: Console, prediction: Prediction, *, filtered: bool) -> None:
    """One distribution as a table of bars."""
    console.print()
    console.print(Text.assemble((f"{prediction.step}. ", "dim"), printable(prediction.text)), soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("#", justify="right")
    table.add_column("token")
    table.add_column("probability", justify="right")
    if filtered:
        table.add_column("drawn from", justify="right")
    table.add_column("", no_wrap=True, overflow="crop")
    rows = list(prediction.candidates)
    if prediction.pick.rank > len(rows):
        rows.append(prediction.pick)
    for candidate in rows:
        picked = candidate.id == prediction.pick.id
        cells = [
            f"{'→ ' if picked else ''}{candidate.rank}",
            Text(candidate.token),
            _percent(candidate.probability),
        ]
        if filtered:
            cells.append("-" if not candidate.drawn else _percent(candidate.drawn))
        bar = "█" * round(candidate.probability * BAR) or "▏"
        cells.append(Text(bar, style="bold green" if picked else "cyan"))
        table.add_row(*cells)
    console.print(table)
    summary = f"entropy {prediction.entropy_bits:.2f} bits · all other tokens {_percent(prediction.tail)}"
    console.print(Text(summary, style="dim"))


def _percent(share: float) -> str:
    return f"{share:.2%}" if share >= 0.00005 else f"{share:.0e}"

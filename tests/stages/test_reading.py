"""From a training step to its documents: what trace says is what the model was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.progress import PlainView
from modelwright.data.corpus import read_corpus
from modelwright.life import Life
from modelwright.recipes.recipe import Recipe
from modelwright.stages.reading import reading_of
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.spread import deal

MIX = {"weights": {"foxes": 3, "owls": 1}, "max_epochs": 50}


@pytest.mark.parametrize("mix", [None, MIX], ids=["all", "mix"])
def test_the_pieces_of_a_step_are_its_tokens(mix: dict[str, Any] | None, tmp_path: Path) -> None:
    for source in ("foxes", "owls"):
        (tmp_path / source).mkdir()
        for number in range(20):
            text = f"The {source} number {number} met {number * 7} others in {number * 13} trees. "
            (tmp_path / source / f"{number}.txt").write_text(text * (1 + number % 3))
    recipe = Recipe(
        name="x",
        stages=("prepare", "tokenize", "pretrain"),
        data={"sources": [{"path": str(tmp_path / name), "name": name} for name in ("foxes", "owls")]},
        tokenizer={"vocab_size": 300},
        model={"depth": 1, "hidden_size": 32, "head_dim": 16, "max_position_embeddings": 64},
        pretrain={"tokens": 1200, "context": 24, "rows": 3, "accumulation": 2, "mix": mix},
    )
    folder = tmp_path / "run"
    made = Life(recipe, folder, PlainView(quiet=True)).run(recipe.stages)
    reading = reading_of(folder, Artifact.load(folder / "pretrain").ancestry())
    tokenizer = BPETokenizer.load(folder / "tokenize" / "tokenizer")
    tokens = {d.id: [*tokenizer.encode(d.text), 0] for d in read_corpus(folder / "prepare" / "train")}
    seen: set[str] = set()
    for step in range(1, reading.plan.steps + 1):
        rows: dict[int, list[int]] = {}
        for piece in reading.of_step(step):
            assert len(tokens[piece.document]) >= piece.first + piece.tokens
            rows.setdefault(piece.row, []).extend(
                tokens[piece.document][piece.first : piece.first + piece.tokens]
            )
            seen.add(piece.document)
        batches = [reading.order.batches[2 * (step - 1) + micro].ids for micro in range(2)]
        assert [rows[row] for row in range(6)] == [ids for batch in batches for ids in batch.tolist()]
        shares = [deal(reading.order.batches, reading.plan.of_step(step - 1), place, 4) for place in range(4)]
        dealt = [ids for each in shares for share in each if share.counts for ids in share.batch.ids.tolist()]
        assert sorted(dealt) == sorted(rows.values()), "four processes learn from the same rows"
    for document in list(tokens)[:4]:
        steps = reading.steps_of(document)
        assert bool(steps) == (document in seen)
        assert all(any(p.document == document for p in reading.of_step(step)) for step in steps)
    groups = {group["group"]: group for group in made[-1].metrics["read"]}
    if mix:
        assert abs(groups["foxes"]["share"] - 0.75) < 0.02 and abs(groups["owls"]["share"] - 0.25) < 0.02
    else:
        assert groups["all"]["epochs"] == pytest.approx(reading.plan.steps * 144 / groups["all"]["tokens"])
    with pytest.raises(UserError, match="it has steps 1 to"):
        list(reading.of_step(reading.plan.steps + 1))

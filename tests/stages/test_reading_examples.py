"""From a step of fine-tuning and of alignment to its texts: what trace says is what the batches hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import validate
from modelwright.base.errors import UserError
from modelwright.base.files import canonical_json, sha256_text
from modelwright.base.metrics import read_metrics
from modelwright.base.progress import PlainView
from modelwright.data.readers.faults import Faults
from modelwright.life import Life
from modelwright.recipes.recipe import load_recipe
from modelwright.stages import align, finetune
from modelwright.stages.reading_examples import examples_of_step
from modelwright.tokenizer.bpe import BPETokenizer

SMALL = (
    "data.atlas_size_bytes=60000", "pretrain.tokens=2000", "model.depth=1", "finetune.conversations=30",
    "finetune.accumulation=2", "finetune.rows=3", "finetune.epochs=2", "align.pairs=20", "align.rows=4",
    "align.accumulation=2", "finetune.context=256", "finetune.samples={prompts: [Hi], max_tokens: 2}",
)  # fmt: skip


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("life") / "run"
    recipe = load_recipe("tiny", SMALL, {})
    Life(recipe, folder, PlainView(quiet=True)).run(recipe.stages[: recipe.stages.index("align") + 1])
    return folder


def test_a_life_lets_the_model_answer_while_it_is_tuned(life: Path) -> None:
    steps = [row["step"] for row in read_metrics(life / "finetune" / "samples.jsonl")]
    assert steps[0] == 0 and steps[-1] == Artifact.load(life / "finetune").metrics["steps"]


def test_conversations_of_each_step_are_those_of_its_rows(life: Path) -> None:
    made = Artifact.load(life / "finetune")
    config = validate(finetune.Config, made.manifest.config, "")
    tokenizer = BPETokenizer.load(made.file("model"))
    laid = config.lay_out("train", tokenizer, made.manifest.seed, Faults())
    packed, found = laid.batches, laid.conversations
    texts = {sha256_text(canonical_json([[m.role, m.content] for m in c.messages])): c for c in found}
    counts: dict[str, int] = {}
    for step in range(1, made.metrics["steps"] + 1):
        kind, rows = examples_of_step(made, step)
        assert kind == "conversations" and {row["source"] for row in rows} == {"atlas"}
        micro = config.plan(len(packed)).of_step(step - 1)
        for row in rows:
            counts[row["id"]] = counts.get(row["id"], 0) + 1
            batch = packed[micro[row["row"] // config.rows]].ids[row["row"] % config.rows]
            answer = next(m.content for m in texts[row["id"]].messages if m.role == "assistant")
            assert row["opening"] in tokenizer.decode(batch.tolist())
            assert answer in tokenizer.decode(batch.tolist())
    assert set(counts.values()) == {2}, "two epochs"
    assert len(counts) == len(packed.kept)


def test_pairs_of_all_steps_are_all_pairs_once(life: Path) -> None:
    made = Artifact.load(life / "align")
    config = validate(align.Config, made.manifest.config, "")
    steps = [examples_of_step(made, step)[1] for step in range(1, made.metrics["steps"] + 1)]
    ids = [row["id"] for rows in steps for row in rows]
    assert len(ids) == len(set(ids)) <= config.pairs and len(steps[0]) <= config.rows * 2
    assert [row["row"] for row in steps[0]] == list(range(0, 2 * len(steps[0]), 2))


def test_steps_that_are_not_there_and_sources_that_changed_are_told(life: Path) -> None:
    made = Artifact.load(life / "finetune")
    with pytest.raises(UserError, match="it has steps 1 to"):
        examples_of_step(made, 0)
    started = life / "finetune" / "started.json"
    kept = started.read_text()
    started.write_text('{"sources": "others"}')
    with pytest.raises(UserError, match="have changed since"):
        examples_of_step(made, 1)
    started.write_text(kept)

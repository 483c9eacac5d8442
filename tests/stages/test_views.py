"""A training stage's manifest counts the conversations and pairs that it learned from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from modelwright.base.config import Config
from modelwright.base.run import Run
from modelwright.formats.huggingface import load_model
from modelwright.stages.views import ConversationView, PairView
from modelwright.tokenizer.bpe import BPETokenizer


def test_what_is_trained_on_counts_and_what_measures_does_not(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = tiny_model("qwen3")
    tokenizer, model = BPETokenizer.load(folder), load_model(folder)
    talks = ConversationView(conversations=5, validation_conversations=3, context=1024)
    pairs = PairView(pairs=4, validation_pairs=2, context=1024)
    run = Run(tmp_path, "finetune", "sft", Config(), 1)
    for side in ("train", "validation"):
        talks.pack(side, tokenizer, run, 1)
        pairs.pair_up(side, model, tokenizer, run, 1)
    (tmp_path / "made.txt").write_text("made")
    found = run.finish(["made.txt"]).manifest.provenance
    assert (found.documents, found.sources, found.personal_data) == (9, {"atlas": 9}, {"no": 9})

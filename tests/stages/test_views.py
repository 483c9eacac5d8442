"""Views of data: what they learn from counts in the manifest, and what a reference says of pairs does not
depend on how many processes share the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from modelwright.base.config import Config
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.base.seams import Output
from modelwright.formats.huggingface import load_model
from modelwright.model.transformer import Transformer
from modelwright.objectives.preference import sequence_logps
from modelwright.stages.views import ConversationView, PairView, reference_logps
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.training.batches import Example, Pairs, padded
from modelwright.training.spread import Spread


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


class Reader(Spread):
    """One of several processes that read different rows, as it would be without the others."""

    def __init__(self, model: Transformer, place: int, readers: int) -> None:
        super().__init__(model)
        self.place = (place, readers)
        self.forwards = 0

    def on_batch(self, batch: Batch) -> Output:
        self.forwards += 1
        return super().on_batch(batch)


def test_processes_share_the_work_of_the_reference(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_model("qwen3")
    model, run = load_model(folder), Run(tmp_path, "align", "preferred", Config(), 1)
    random = torch.Generator().manual_seed(0)
    rows = [torch.randint(0, model.config.vocab_size, (9 - n % 5,), generator=random) for n in range(18)]
    examples = [Example(ids.tolist(), [False, False, *[True] * (len(ids) - 2)]) for ids in rows]
    answers = list(zip(examples[::2], examples[1::2], strict=True))
    pairs = Pairs(answers, 2, seed=3, padding=0)
    whole = reference_logps(model, pairs, run)
    for example, logp in zip(examples, whole, strict=True):
        batch = padded([example], 0)
        torch.testing.assert_close(sequence_logps(model.on_batch(batch), batch.targets)[0], logp)
    for readers in (2, 3, 7):
        processes = [Reader(model, place, readers) for place in range(readers)]
        parts: list[Tensor] = [reference_logps(process, pairs, run) for process in processes]
        assert torch.equal(sum(parts, torch.zeros(18)), whole)
        assert {process.forwards for process in processes} == {-(-len(pairs) // readers)}, "one went ahead"
    run.close()

"""Views of data: what they learn from counts in the manifest, and what a reference says of pairs does not
depend on how many processes share the work."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from modelwright.base.config import Config
from modelwright.base.errors import DamagedFile
from modelwright.base.progress import PlainView
from modelwright.base.run import Run
from modelwright.base.schema import Batch
from modelwright.base.seams import Output
from modelwright.data.readers.faults import Faults, OnError
from modelwright.data.readers.source import Source
from modelwright.data.split import SIDES
from modelwright.formats.huggingface import load_model
from modelwright.model.transformer import Transformer
from modelwright.objectives.preference import sequence_logps
from modelwright.stages import dataset_check
from modelwright.stages.views import DROPPED, REFUSED, ConversationView, PairView, left_out, reference_logps
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


@pytest.mark.parametrize("view", [ConversationView, PairView])
def test_rows_that_cannot_be_read_are_listed_or_end_it(
    tiny_model: Callable[..., Path], tmp_path: Path, view: type[ConversationView | PairView]
) -> None:
    folder = tiny_model("qwen3")
    tokenizer, model = BPETokenizer.load(folder), load_model(folder)
    good = [
        {"question": f"{n}?", "answer": "a", "prompt": f"{n}?", "chosen": "a", "rejected": "b"}
        for n in range(300)
    ]
    bad = {**good[0], "answer": "", "rejected": " "}
    long = {**good[0], "answer": "a " * 99, "rejected": "b " * 99}
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*good, bad, long])), encoding="utf-8")
    sources = (Source(path=str(tmp_path / "a.jsonl")),)
    run = Run(tmp_path / "run", "finetune", "sft", Config(), 1)

    def lay_out(on_error: OnError) -> None:
        settings = view(sources=sources, on_error=on_error, context=64)
        if isinstance(settings, ConversationView):
            settings.pack("train", tokenizer, run, 1)
        else:
            settings.pair_up("train", model, tokenizer, run, 1)

    with pytest.raises(DamagedFile, match=r"a\.jsonl, line 301: .* is empty"):
        lay_out("fail")
    lay_out("skip")
    lines = (tmp_path / "run" / DROPPED).read_text(encoding="utf-8").splitlines()
    unread, dropped = map(json.loads, lines)
    assert unread["place"].endswith("a.jsonl, line 301") and unread["reason"].startswith("empty text: ")
    assert dropped["place"] == "line 302" and dropped["reason"] == "over 64 tokens"
    assert left_out(run) == {"left_out": 2} and "1 empty text" in (tmp_path / "run" / "log.txt").read_text()
    run.close()


def test_held_out_conversations_may_have_files_of_their_own(tmp_path: Path) -> None:
    def put(name: str, count: int) -> Source:
        rows = [{"question": f"{name} {n}?", "answer": "a"} for n in range(count)]
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return Source(path=str(tmp_path / name))

    view = ConversationView(sources=(put("a.jsonl", 40),), validation_sources=(put("b.jsonl", 30),))
    read = {side: view.read(side, 1, 100, Faults()) for side in SIDES}
    opening = {side: {each.messages[0].content[0] for each in read[side]} for side in SIDES}
    assert opening == {"train": {"a"}, "validation": {"b"}}
    assert (len(read["train"]), len(read["validation"])) == (40, 30)
    assert [len(view.read(side, 1, 10, Faults())) for side in SIDES] == [10, 10]


def test_what_a_template_refuses_is_listed(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("qwen3"), folder)
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    refusal = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Begin with the user.') }}{% endif %}"
    (folder / "chat_template.jinja").write_text(refusal + template, encoding="utf-8")
    good = [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]
    rows = [
        *[{"messages": [{**good[0], "content": f"{n}?"}, good[1]]} for n in range(60)],
        {"messages": good[1:] + good},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run = Run(tmp_path / "run", "finetune", "sft", Config(), 1)
    sources = (Source(path=str(tmp_path / "a.jsonl")),)
    tokenizer = BPETokenizer.load(folder)
    with pytest.raises(DamagedFile, match=r"a\.jsonl, line 61: .*Begin with the user"):
        ConversationView(sources=sources, validation_sources=sources).pack("train", tokenizer, run, 1)
    view = ConversationView(sources=sources, validation_sources=sources, on_error="skip")
    assert len(view.pack("train", tokenizer, run, 1).batches.kept) == 60
    (line,) = (tmp_path / "run" / DROPPED).read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["reason"].startswith(f"{REFUSED}: ")
    found = dataset_check.check([str(tmp_path / "a.jsonl")], {}, PlainView(quiet=True), model=folder)
    assert found.counts[REFUSED] == 1 and REFUSED in found.gates
    run.close()

"""Tokens that fine-tuning adds: in tokenizer, weights and adapter, and in all that is made of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from tests.formats.test_peft import THEIR_WARNING
from tests.stages.test_adapting import config_of, rows_of, tuned

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.errors import ConfigError
from modelwright.base.run import Run
from modelwright.cli import main
from modelwright.formats.gguf_import import import_gguf
from modelwright.formats.huggingface import load_model
from modelwright.formats.peft import load_adapter
from modelwright.stages import export
from modelwright.stages.new_tokens import NewTokensConfig, remarks, with_tokens
from modelwright.stages.search import _judge
from modelwright.tokenizer.bpe import BPETokenizer

NEW = {"plain": ["<tool>", "<end>"], "special": ["<|wish|>"]}
TEXT = "<tool>3<end> Say 4.<tool>"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    turns = [[("user", f"Say {n}."), ("assistant", f"<tool>{n}<end>")] for n in range(40)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in turns]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def parent(
    request: pytest.FixtureRequest,
    tiny_model: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Artifact:
    """A model as a station leaves it; its head has a row of padding."""
    folder = tmp_path_factory.mktemp("base")
    size = load_model(tiny_model("qwen3")).config.vocab_size
    model = tiny_model("qwen3", tie_word_embeddings=request.param, vocab_size=size + 1)
    (folder / "model").symlink_to(model)
    return Run(folder, "pretrain", "base", Config(), 1).finish(["model"])


def matrices(folder: Path) -> dict[str, torch.Tensor]:
    found = load_file(folder / "model.safetensors")
    return {name: found[name] for name in ("model.embed_tokens.weight", "lm_head.weight") if name in found}


ADAPTERS: dict[str, dict[str, Any]] = {
    "LoRA": {"adapter": {"rank": 4}},
    "QLoRA": {"adapter": {"rank": 4}, "weights": "nf4"},
    "LoRA, all rows": {"adapter": {"rank": 4}, "new_tokens": {**NEW, "train": "all", "begin": "mean"}},
}


@pytest.mark.filterwarnings(THEIR_WARNING, "ignore::UserWarning")
@pytest.mark.parametrize("kind", ["full", *ADAPTERS])
def test_they_are_learned_and_everybody_reads_them(
    parent: Artifact, chats: Path, tmp_path: Path, kind: str
) -> None:
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    settings = {"new_tokens": NEW, "optimizer": {"kind": "adamw", "learning_rate": 0.01}}
    made = tuned(tmp_path, config_of(chats, **settings | ADAPTERS.get(kind, {})), parent)
    losses = [row["loss"] for row in rows_of(made)]
    assert losses[-1] < 0.8 * losses[0]
    base, folder = parent.file("model"), made.file("model")
    tokenizer = BPETokenizer.load(folder)
    first = BPETokenizer.load(base).vocab_size
    assert made.metrics["new_tokens"] == {"<tool>": first, "<end>": first + 1, "<|wish|>": first + 2}
    assert "'<|wish|>' stands in none of the conversations" in (tmp_path / "log.txt").read_text()
    for name, before in matrices(base).items():
        after = matrices(folder)[name]
        assert len(after) == first + 3 == len(before) + 2  # one row of padding was there
        same = [torch.equal(*each) for each in zip(after[:first], before[:first], strict=True)]
        assert all(same) == (kind in ("LoRA", "QLoRA"))
        assert not any(torch.equal(after[first], row) for row in after[:first])
    ids = tokenizer.encode(TEXT)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert transformers.AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"] == ids
    with torch.inference_mode():
        found = load_model(folder)(torch.tensor([ids])).logits()
        torch.testing.assert_close(found, theirs(torch.tensor([ids])).logits, atol=1e-4, rtol=1e-4)
    if kind in ("LoRA", "LoRA, all rows"):
        beside = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        assert len(transformers.AutoTokenizer.from_pretrained(made.file("adapter"))) == first + 3
        beside.resize_token_embeddings(first + 3)
        beside = peft.PeftModel.from_pretrained(beside, made.file("adapter"))
        with torch.inference_mode():
            logits = beside(torch.tensor([ids])).logits
        torch.testing.assert_close(logits, found, atol=1e-4, rtol=1e-4)


def test_the_export_is_verified_by_every_reader_and_predict_knows_them(
    parent: Artifact, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"new_tokens": NEW, "adapter": {"rank": 2}, "optimizer": {"learning_rate": 0.01}}
    made = tuned(tmp_path / "tuned", config_of(chats, **settings), parent)
    config = export.Config(gguf=("f16",), sequences=2, sequence_length=16, readers="require")
    run = Run(tmp_path / "export", "export", "bundle", config, 1, {"model": made})
    try:
        bundle = export.run(config, run)
    finally:
        run.close()
    assert any(reader.startswith("transformers") for reader in bundle.metrics["verified_by"])
    import_gguf(bundle.path / "gguf" / "model-f16.gguf", tmp_path / "back")
    ours, back = (BPETokenizer.load(folder) for folder in (bundle.file("hf"), tmp_path / "back"))
    assert back.encode(TEXT) == ours.encode(TEXT) and "<|wish|>" in back.special_ids
    ids = torch.tensor([ours.encode(TEXT)])
    with torch.inference_mode():
        logits = [load_model(folder)(ids).logits() for folder in (bundle.file("hf"), tmp_path / "back")]
    torch.testing.assert_close(logits[1], logits[0], atol=0.02, rtol=0.01)
    assert main(["predict", str(bundle.file("hf")), "Say <tool>", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(ours.encode("Say <tool>")) < len(ours.encode("Say <toot>")) and said


def test_training_goes_on_from_an_adapter_with_them(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    adapter = {"rank": 2}
    first = tuned(tmp_path / "first", config_of(chats, adapter=adapter, new_tokens=NEW), parent)
    begun = {"adapter": adapter, "begin_adapter": first.file("adapter")}
    more = tuned(tmp_path / "more", config_of(chats, **begun, new_tokens=NEW), parent)
    assert rows_of(more)[0]["loss"] < rows_of(first)[0]["loss"]
    rows = [load_adapter(each.file("adapter")).rows for each in (first, more)]
    assert rows[0].keys() == rows[1].keys()
    assert all(not torch.equal(rows[0][name].values, rows[1][name].values) for name in rows[0])
    with pytest.raises(ConfigError, match=r"made for another vocabulary.*Give the new_tokens that it was"):
        tuned(tmp_path / "none", config_of(chats, **begun), parent)
    others = {"plain": [*NEW["plain"], "<more>"], "special": NEW["special"]}
    with pytest.raises(ConfigError, match=r"made for another vocabulary.*none for new token"):
        tuned(tmp_path / "others", config_of(chats, **begun, new_tokens=others), parent)


def test_search_judges_the_model_before_and_after_by_the_same_tokens(
    parent: Artifact, chats: Path, tmp_path: Path
) -> None:
    config = config_of(chats, adapter={"rank": 2}, new_tokens=NEW, optimizer={"learning_rate": 0.01})
    base = parent.file("model")
    judge = _judge(config, base, 3)
    before, after = judge(base), judge(tuned(tmp_path, config, parent).file("model"))
    assert after.sizes == before.sizes and after.value < before.value


def test_what_cannot_be_is_refused(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    for tokens, message in (
        (["<a>", "<b>", "<a>"], r"names '<a>' more than once"),
        ({"plain": ["<a>"], "special": ["<a>"]}, r"names '<a>' more than once"),
        ([], "names no token"),
    ):
        with pytest.raises(ValidationError, match=message):
            config_of(chats, new_tokens=tokens)
    with pytest.raises(ValidationError, match="keeps new tokens from learning"):
        config_of(chats, new_tokens=["<a>"], freeze={"embeddings": True})
    with pytest.raises(ConfigError, match=r"'<\|im_end\|>' is token \d+ of this tokenizer already"):
        tuned(tmp_path / "known", config_of(chats, new_tokens=["<|im_end|>"]), parent)
    absent = {"special": ["<a>"], "template": str(tmp_path / "absent.jinja")}
    with pytest.raises(ConfigError, match="cannot be read"):
        tuned(tmp_path / "absent", config_of(chats, new_tokens=absent), parent)


def test_a_template_writes_special_ones(parent: Artifact, chats: Path, tmp_path: Path) -> None:
    own = BPETokenizer.load(parent.file("model")).chat_template
    template = tmp_path / "mine.jinja"
    template.write_text("{{- '<|wish|>' }}" + own)
    settings = {"new_tokens": {**NEW, "template": str(template)}, "adapter": {"rank": 2}}
    made = tuned(tmp_path / "tuned", config_of(chats, **settings), parent)
    assert "stands in none" not in (made.path / "log.txt").read_text()
    assert BPETokenizer.load(made.file("model")).chat_template == template.read_text()


def test_a_token_that_ordinary_text_spells_is_remarked_on(
    parent: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, said = parent.file("model"), list[str]()
    pieces = len(BPETokenizer.load(folder).encode("zebra"))
    tokens = NewTokensConfig(plain=("<tool>", "zebra"), special=("<|ends|>",))
    with with_tokens(tokens, folder, said.append):
        pass
    assert pieces > 1 and len(said) == 2 and said[0].startswith("new tokens: ")
    assert said[1].startswith(f"new token 'zebra', which was {pieces} tokens before, is ordinary text")
    (blind,) = remarks(tokens, None)
    assert blind.startswith("new token 'zebra' is ordinary text")
    settings = [
        "import.model={}",
        "import.licence=MIT",
        "stages=[import, finetune]",
        "finetune.sources=[atlas]",
    ]
    settings += ["finetune.conversations=60", "finetune.new_tokens=[zebra, <tool>]"]
    overrides = [part for each in settings for part in ("--set", each.format(folder))]
    assert main(["plan", "finetune-laptop", "--on", "l4", *overrides]) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: finetune: ")]
    assert [f"was {pieces} tokens before" in note for note in notes] == [True]

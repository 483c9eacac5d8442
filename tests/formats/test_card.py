"""The card says what the manifests say, and follows an ancestry only where it is still true."""

from __future__ import annotations

from pathlib import Path

from tests.tokenizer.families import FAMILIES

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.provenance import Provenance
from modelwright.base.run import Run
from modelwright.formats.card import licence_of, model_card
from modelwright.formats.ollama import modelfile
from modelwright.model.config import ModelConfig
from modelwright.tokenizer.bpe import BPETokenizer
from modelwright.tokenizer.learn import learn

CONFIG = ModelConfig(
    architecture="qwen2", vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16,
)  # fmt: skip


ROLES = {
    "prepare": "corpus", "tokenize": "tokens", "pretrain": "base", "finetune": "sft", "align": "aligned",
    "average": "averaged",
}  # fmt: skip


class Settings(Config):
    value: int = 0


def make(folder: Path, stage: str, value: int = 0, **inputs: Artifact) -> Artifact:
    run = Run(folder / stage, stage, ROLES[stage], Settings(value=value), 5, inputs)
    (run.dir / "made.txt").write_text(f"{stage} {value}")
    if stage == "prepare":
        run.brings_in(Provenance.count([("<script>|x", "MIT", "unknown", "unknown")]))
    metrics = {"score": 0.5, "train_documents": 11_990, "grown": 1199.6, "note": "words", "chosen": True}
    return run.finish(files=["made.txt"], metrics=metrics)


def card(history: list[Artifact], config: ModelConfig = CONFIG) -> str:
    return model_card(
        name="tiny", config=config, parameters=1234, history=history, checks=["f: passed"],
        gguf_files=["gguf/model-q8_0.gguf"],
    )  # fmt: skip


def test_it_tells_the_whole_line(tmp_path: Path) -> None:
    prepared = make(tmp_path, "prepare")
    trained = make(tmp_path, "pretrain", prepare=prepared)
    history = trained.ancestry()
    assert [artifact.stage for artifact in history] == ["pretrain", "prepare"]
    text = card(history)
    for words in (
        "license: mit",
        "1,234 parameters",
        "1 document.",
        "| score 0.5, train documents 11,990, grown 1,200 |",
        prepared.id[:12],
        "f: passed",
        "config.head_dim = 16",
        'gguf_file="model-q8_0.gguf"',
    ):
        assert words in text
    assert "<script>" not in text and "&lt;script>\\|x" in text
    assert "PreTrainedTokenizerFast" in text  # qwen2: see formats/readers.py
    assert licence_of(trained.manifest.provenance) == "MIT" and licence_of(Provenance()) == "unknown"


def test_no_way_is_told_that_leads_nowhere(tmp_path: Path) -> None:
    """transformers reads no GGUF files of Gemma."""
    gemma = CONFIG.model_copy(update={"architecture": "gemma"})
    text = card([make(tmp_path, "prepare")], gemma)
    assert "llama-cli" in text and "gguf_file=" not in text


def test_stages_stand_in_the_order_of_the_life(tmp_path: Path) -> None:
    """What is averaged descends from the tokens twice, once over few steps and once over many."""
    tokens = make(tmp_path, "tokenize", prepare=make(tmp_path, "prepare"))
    tuned = make(tmp_path, "finetune", model=make(tmp_path, "pretrain", tokens=tokens))
    averaged = make(tmp_path, "average", model=make(tmp_path, "align", model=tuned), tokens=tokens)
    rows = [line.split(" | ")[0] for line in card(averaged.ancestry()).splitlines() if "| score" in line]
    assert rows == [f"| {stage}" for stage in ROLES]


def test_a_parent_made_anew_is_no_ancestor(tmp_path: Path) -> None:
    trained = make(tmp_path, "pretrain", prepare=make(tmp_path, "prepare"))
    make(tmp_path, "prepare", value=1)
    assert [artifact.stage for artifact in trained.ancestry()] == ["pretrain"]


def test_the_modelfile_spells_chatml_for_go(tmp_path: Path) -> None:
    text = modelfile("gguf/m.gguf", learn(["some text"], 300))
    assert 'TEMPLATE """{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n' in text
    assert text.count('PARAMETER stop "') == 3
    imported = modelfile("gguf/m.gguf", BPETokenizer.load(FAMILIES["gemma"].write(tmp_path)))
    assert "TEMPLATE" not in imported and 'PARAMETER stop "<end_of_turn>"' in imported

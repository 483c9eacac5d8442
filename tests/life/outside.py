"""A model that somebody else has made: written by transformers, in two shards of bf16, with a card."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from modelwright.tokenizer.bpe import BPETokenizer

CARD = "---\nlicense: apache-2.0\nlanguage: [en]\n---\n# A tiny model\n"


def write_model(folder: Path, tokenizer: Path, **settings: int) -> Path:
    """A random Llama with the vocabulary of `tokenizer`."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 128, **settings}
    torch.manual_seed(3)
    vocabulary = BPETokenizer.load(tokenizer).vocab_size
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes)).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="100KB")
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)
    (folder / "README.md").write_text(CARD)
    (folder / "modeling_tiny.py").write_text("raise SystemExit('code of a model is never run')\n")
    return folder

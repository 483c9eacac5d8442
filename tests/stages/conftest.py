"""What several stages are tried on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.artifact import Artifact
from modelwright.base.config import Config
from modelwright.base.files import sha256_text
from modelwright.base.run import Run
from modelwright.base.schema import Document
from modelwright.data.corpus import write_corpus
from modelwright.stages import tokenize

PROBLEMS = [(f"What is {n} plus {n + 1}?", 2 * n + 1) for n in range(12)]


@pytest.fixture(scope="session")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a `tokenize`: sixty sentences to train on and ten held out, alike but for a number."""
    folder = tmp_path_factory.mktemp("tokens")
    run = Run(folder / "prepare", "prepare", "corpus", Config(), 0)
    metrics: dict[str, Any] = {}
    for side, numbers in (("train", range(60)), ("validation", range(60, 70))):
        texts = [f"All {n:b} human beings are born free and equal." for n in numbers]
        with write_corpus(folder / "prepare" / side) as writer:
            for text in texts:
                writer.add(Document(text=text, id=sha256_text(text), source="x"))
        metrics |= {f"{side}_documents": len(texts), f"{side}_bytes": sum(len(t.encode()) for t in texts)}
    corpus = run.finish(["train", "validation"], metrics)
    settings = tokenize.Config(vocab_size=270)
    work = Run(folder / "tokenize", "tokenize", "tokens", settings, 0, {"corpus": corpus})
    return tokenize.run(settings, work).path


@pytest.fixture(scope="session")
def parent(tiny_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A model as a station leaves it."""
    folder = tmp_path_factory.mktemp("base")
    (folder / "model").symlink_to(tiny_model("qwen3"))
    return Run(folder, "pretrain", "base", Config(), 1).finish(["model"])


@pytest.fixture(scope="session")
def teacher(tiny_model: Callable[..., Path]) -> Path:
    """Of another architecture and other sizes than `parent`, with the same tokenizer."""
    return tiny_model("llama", hidden_size=48)


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty conversations of two turns, alike but for a number."""
    turns = [[("user", f"Say {n}."), ("assistant", f"{n}.")] for n in range(60)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in each]} for each in turns]
    path = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Rows as GSM8K has them."""
    path = tmp_path / "problems.jsonl"
    rows = [{"question": asked, "answer": f"I add.\n#### {right}"} for asked, right in PROBLEMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path

"""A corpus of made-up stories, and `prepare` at work on it: also what child processes run."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from pathlib import Path
from threading import Timer
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.config import validate
from modelwright.base.run import Run
from modelwright.stages import prepare

WORDS = re.findall(r"\w+", "the quick brown fox jumps over a lazy dog while rain falls on old stone walls")


def sentence(random_: random.Random) -> str:
    return " ".join(random_.choices(WORDS, k=random_.randint(6, 14))).capitalize() + "."


def story(seed: int, sentences: int = 20) -> str:
    random_ = random.Random(seed)
    return " ".join(sentence(random_) + f" It was number {seed * 31 + n}." for n in range(sentences))


def write_source(folder: Path) -> None:
    """Rows with exact, near and partial repetitions, some of them far apart."""
    stories = [story(seed) for seed in range(120)]
    passage = story(999, 6)
    stories[100] = stories[3]
    stories[101] = stories[4].replace("fox", "cat", 1)
    stories[102] = story(1000) + " " + passage + " " + story(1001)
    stories[110] = story(1002) + " " + passage + " " + story(1003)
    for part in range(4):
        rows = [{"text": text, "n": n} for n, text in enumerate(stories[part * 30 : part * 30 + 30])]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{part}.jsonl").write_text(lines, encoding="utf-8")


SETTINGS: dict[str, Any] = {
    "unit_bytes": 20_000,
    "duplicates": {"near": {}, "lines": {}, "passages": {}},
    "filters": [{"name": "length", "min_characters": 100}],
    "validation_fraction": 0.1,
    "decontaminate": {"enabled": False},
}


def work(folder: Path, source: Path, **settings: Any) -> Artifact:
    config = validate(prepare.Config, {"sources": [str(source)], **SETTINGS, **settings}, "data")
    run = Run(folder, "prepare", "corpus", config, 1)
    try:
        return prepare.run(config, run)
    finally:
        run.close()


def killed_after(seconds: float, folder: Path, source: Path) -> None:
    """In a process of its own: `work`, and be killed in the middle of it, with all workers."""
    os.setsid()
    end = Timer(seconds, os.killpg, (os.getpid(), signal.SIGKILL))
    end.daemon = True
    end.start()
    work(folder, source, execution={"workers": 2})

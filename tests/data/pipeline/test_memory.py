"""Memory is bounded by settings, never by the size of the corpus.

One gigabyte by default; MODELWRIGHT_CORPUS_GB=20 asks for as much as the promise is about (45 GB of disk).
What counts is memory that no file stands behind: the system takes mapped files back when it needs to.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelwright.base.artifact import Artifact

LIMIT_BYTES = 2 << 30
GIGABYTES = float(os.environ.get("MODELWRIGHT_CORPUS_GB", "1"))
RECIPE = """
name: large
stages: [prepare]
data:
  sources: [{{path: {folder}, name: large, licence: CC0-1.0}}]
  duplicates: {{near: {{}}}}
  decontaminate: {{enabled: false}}
  max_document_characters: 0
"""


def write_corpus(folder: Path, size: int) -> int:
    """Documents of about 10 kB out of made-up sentences, a twentieth of them said twice; how many."""
    dice = random.Random(5)
    words = ["".join(dice.choices("aeioubcdfglmnprst", k=dice.randint(2, 9))) for _ in range(20_000)]
    sentences = [" ".join(dice.choices(words, k=12)).capitalize() + "." for _ in range(50_000)]
    written = number = 0
    folder.mkdir()
    while written < size:
        with (folder / f"{number:08}.jsonl").open("w", encoding="utf-8") as file:
            while file.tell() < min(1 << 30, size - written):
                seed = number - 1 if number % 20 == 19 else number
                text = " ".join(random.Random(seed).choices(sentences, k=120))
                file.write(json.dumps({"text": text}) + "\n")
                number += 1
            written += file.tell()
    return number


def memory_of_session(session: int) -> int:
    """Bytes of main memory that all processes of a session hold, shared pages shared out among them."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if os.getsid(int(entry.name)) == session:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss_Anon:"))
        except (OSError, IndexError):
            continue  # it has just ended
    return total


@pytest.mark.slow
def test_a_large_corpus_passes_in_little_memory(tmp_path: Path) -> None:
    documents = write_corpus(tmp_path / "source", int(GIGABYTES * 1e9))
    recipe = tmp_path / "large.yaml"
    recipe.write_text(RECIPE.format(folder=tmp_path / "source"))
    command = [sys.executable, "-m", "modelwright", "run", str(recipe), "-o", str(tmp_path / "run"), "-q"]
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, start_new_session=True)
    while process.poll() is None:
        peak = max(peak, memory_of_session(process.pid))
        time.sleep(0.5)
    seconds = time.monotonic() - start
    said = f"{GIGABYTES:g} GB, {documents:,} documents: {seconds:,.0f} s, peak {peak / 2**20:,.0f} MiB\n"
    sys.stdout.write(said)  # shown by pytest -s
    assert process.returncode == 0 and peak < LIMIT_BYTES
    made = Artifact.load(tmp_path / "run" / "prepare")
    kept = made.metrics["train_documents"] + made.metrics["validation_documents"]
    assert kept == documents - documents // 20 and made.metrics["dropped"] == {
        "exact duplicate": documents // 20
    }

"""Recall and false hits on real evaluation sets and real clean text, all of them at once.

The thresholds were chosen on one half of the items and of the clean texts (those whose hash is even); this
measures the other half. To see the table (the items are others than those of the one look into that half
which led to the last change, that a question with slips needs its answer):

    pytest -m slow -s tests/data/decontaminate/test_recall.py
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.inject import inject, some_of_each
from modelwright.data.decontaminate.items import EvalItem, read_items
from modelwright.environments.items import known_items

PUBLIC = ("gsm8k", "humaneval", "mbpp", "mmlu", "truthfulqa", "ifeval", "xstest")

TRUE_OVERLAPS = {
    "mmlu/test:7980": "quotes a page of Jane Eyre",
    "mmlu/test:7899": "the same page",
    "lambada_openai/lambada_openai:1935": "The Hound of the Baskervilles",
    "lambada_openai/lambada_openai:2815": "The Hound of the Baskervilles",
    "lambada_openai/lambada_openai:3454": "The Hound of the Baskervilles",
    "lambada_openai/lambada_openai:3935": "The Hound of the Baskervilles",
}
"""Items which texts that pass as clean hold indeed: both quote the same books."""


def held_out(text: str) -> bool:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 1


def clean_texts(folder: Path) -> list[str]:
    """Pieces of novels and gospels, pages about SQLite: no evaluation items, but for quotations."""
    files = sorted((folder / "litbank_novels").glob("*.parquet"))
    novels = [text for file in files for text in pq.read_table(file)["text"].to_pylist()]
    texts = [novel[at : at + 3400] for novel in novels for at in range(0, len(novel), 3400)]
    with gzip.open(folder / "sqlite_docs_html" / "pages.jsonl.gz", "rt", encoding="utf-8") as file:
        texts += [json.loads(line)["html"] for line in file]
    with gzip.open(folder / "gospels" / "gospels.jsonl.gz", "rt", encoding="utf-8") as file:
        verses = [json.loads(line)["eng"] for line in file]
    return texts + [" ".join(verses[at : at + 25]) for at in range(0, len(verses), 25)]


def public_items(folder: Path) -> list[EvalItem]:
    core = sorted((folder / "core_tasks").glob("*.jsonl.gz"))
    return [item for path in (*(folder / name for name in PUBLIC), *core) for item in read_items(path)]


@pytest.mark.slow
@pytest.mark.parametrize("sets", ["our suites alone", "our suites and all public sets"])
def test_recall_and_false_hits_on_what_was_held_out(shared_data: Path, sets: str) -> None:
    items = list(known_items()) + (public_items(shared_data) if "public" in sets else [])
    index = Index.build(items)
    unseen = [item for item in items if held_out(item.suite + item.id + item.question)]
    texts = [text for text in clean_texts(shared_data) if held_out(text)]
    recall = inject(index, some_of_each(unseen, 60, seed=1), texts, seed=1)
    fragile = sum(1 for _ in index.fragile())
    hits = "\n".join(f"hit: {hit} {hit.kind} {hit.score:.2f}" for hit in recall.wrong)
    counts = f"{dict(index.coverage())}, fragile {fragile}"
    sys.stdout.write(f"\n{sets}: {counts}\n\n{recall.table()}\n\n{recall}\n{hits}\n")
    false = [hit for hit in recall.wrong if str(hit) not in TRUE_OVERLAPS]
    assert len(false) <= recall.false_hits.total / 10_000, false
    assert [bar for bar in recall.below_bar(recall.usable) if not bar.startswith("false hits")] == []

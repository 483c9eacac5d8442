"""Our verdicts against those of the real datatrove: the same documents go, by the same rules."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("datatrove", reason="datatrove, the peer, is not installed")
pytest.importorskip("spacy", reason="spaCy, whose words datatrove counts, is not installed")

from tests.data.filters.peer import RULES, Pair, cause, nasty_documents, pairs, real_documents, verdict

from modelwright.data.words.measures import measure_words
from modelwright.data.words.segment import segment

LOG = logging.getLogger(__name__)
ENOUGH = 0.995


def disagreements(documents: Sequence[str], asked: Iterable[Pair]) -> dict[str, list[str]]:
    """Pair -> documents on which the verdicts, the first rules that failed, or the texts left differ."""
    found: dict[str, list[str]] = defaultdict(list)
    asked = list(asked)
    for text in documents:
        has_words = measure_words(segment(text), ()).words > 0
        for pair in asked:
            if not has_words and "." in pair.name:
                continue  # datatrove divides by zero where the minimum of words is switched off
            if verdict(pair.ours, text) != pair.peer(text):
                found[pair.name].append(text)
    return found


def check(documents: Sequence[str]) -> None:
    found = disagreements(documents, pairs())
    unexplained = {
        name: [text for text in texts if cause(text) == "unexplained"] for name, texts in found.items()
    }
    assert not any(unexplained.values()), {name: texts[:2] for name, texts in unexplained.items() if texts}
    for name, texts in found.items():
        share = 1 - len(texts) / len(documents)
        LOG.info("%s: %.2f%% of %d agree; %s", name, 100 * share, len(documents), Counter(map(cause, texts)))
        assert share >= ENOUGH, name


def test_made_documents() -> None:
    check(list(nasty_documents(120)))


def test_real_documents(shared_data: Path) -> None:
    every = list(real_documents(shared_data))
    check(every[:: len(every) // 60])


def test_each_rule_is_tried() -> None:
    """An agreement on rules that never fire would say nothing."""
    fired: set[str] = set()
    for text in nasty_documents(400, seed=1):
        fired.update(verdict(pair.ours, text)[1] or "" for pair in pairs())
    expected = {f"{name}: {rule}" for name, rules in RULES.items() for rule in rules.values()}
    assert expected - fired <= {"fineweb: empty text", "gopher_repetition: empty text"}


@pytest.mark.parametrize(
    "text", ["", " ", "\n", "\n\n \t", "a", ".", "...", "\x00", "a\u2028b", "😀", "\ufeff"]
)
def test_next_to_nothing(text: str) -> None:
    assert not disagreements([text], [pair for pair in pairs() if "." not in pair.name])


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_a_large_corpus(shared_data: Path, part: int) -> None:
    check([*list(real_documents(shared_data))[part::100], *nasty_documents(200, seed=2 + part)])

"""Pre-training text: an endless, even mix of genres about the one world, cut at a size.

Deterministic: the same seed and size give the same documents, byte for byte. Facts come in rounds
(`phrasing.Deck`), so every fact is told about equally often within its relation and none is rare.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from modelwright.base.files import sha256_text
from modelwright.base.policy import NO_JURISDICTION
from modelwright.base.schema import Document
from modelwright.base.seeding import derive
from modelwright.data.atlas.genres.arithmetic import arithmetic
from modelwright.data.atlas.genres.continents import continents
from modelwright.data.atlas.genres.dialogues import dialogues
from modelwright.data.atlas.genres.fact_lists import fact_lists
from modelwright.data.atlas.genres.multilingual import multilingual
from modelwright.data.atlas.genres.paragraphs import paragraphs
from modelwright.data.atlas.genres.python_functions import python_functions
from modelwright.data.atlas.genres.questions import questions
from modelwright.data.atlas.genres.stories import stories
from modelwright.data.atlas.genres.unknown import unknown
from modelwright.data.atlas.world import World, load_world

Genre = Callable[[World, random.Random], Iterator[str]]

GENRES: Mapping[str, tuple[Genre, float]] = {
    "fact_lists": (fact_lists, 0.42),
    "paragraphs": (paragraphs, 0.17),
    "questions": (questions, 0.14),
    "dialogues": (dialogues, 0.06),
    "continents": (continents, 0.02),
    "multilingual": (multilingual, 0.05),
    "stories": (stories, 0.04),
    "arithmetic": (arithmetic, 0.04),
    "python_functions": (python_functions, 0.03),
    "unknown": (unknown, 0.03),
}
"""Name -> how to write it, and its share of the bytes. The first five carry the facts."""

LICENCE = "CC-BY-4.0"
"""What the most demanding of the tables' sources asks for; see SOURCES.md."""


def documents(seed: int, size_bytes: int) -> Iterator[Document]:
    """Different documents until their text has at least `size_bytes` bytes of UTF-8."""
    world = load_world()
    writers = {name: write(world, random.Random(derive(seed, name))) for name, (write, _) in GENRES.items()}
    written = dict.fromkeys(GENRES, 0)
    seen: set[str] = set()
    while sum(written.values()) < size_bytes:
        genre = min(GENRES, key=lambda name: written[name] / GENRES[name][1])
        text = next(writers[genre])
        identity = sha256_text(text)
        if identity in seen:
            continue
        seen.add(identity)
        written[genre] += len(text.encode())
        yield Document(
            text=text,
            id=identity,
            source="atlas",
            licence=LICENCE,
            jurisdiction=NO_JURISDICTION,
            personal_data=False,
            meta={"genre": genre},
        )

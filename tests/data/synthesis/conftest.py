"""An exam that nothing written may hold."""

from __future__ import annotations

import random

import pytest

from modelwright.data.decontaminate.index import Index
from modelwright.data.decontaminate.items import EvalItem

WORDS = """mill bridge light harbour market copper wheel rope tide barn cliff stone lamp boat clock tower bell
net oven well road field gate roof shell salt fish grain horse cart map song door glass wool ink"""


def questions() -> list[str]:
    """Sixty, of words that few of them share."""
    draw, words = random.Random(3), WORDS.split()
    things = [", a ".join(draw.sample(words, 10)) for _ in range(60)]
    return [f"Which village had a {each} in the year {year}?" for year, each in enumerate(things, 1500)]


@pytest.fixture(scope="session")
def exam() -> Index:
    """An index of the questions."""
    return Index.build(
        EvalItem("exam", str(n), question, "Saltburn") for n, question in enumerate(questions())
    )


@pytest.fixture(scope="session")
def exam_question() -> str:
    """One of them."""
    return questions()[0]

"""Items of lists that models write, and of what only looks like one."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwright.data.synthesis.lists import MAX_CHARACTERS, listed

ITEM = st.text(st.characters(codec="ascii", categories=("Lu", "Ll")), min_size=1, max_size=8)
ITEMS = st.lists(st.lists(ITEM, min_size=1, max_size=6).map(" ".join), min_size=1, max_size=12)


@given(
    ITEMS, st.integers(1, 500), st.sampled_from(["{}. ", "{}) ", "{}: ", "**{}.** ", "Task {}: ", "### {}. "])
)
def test_numbered_items_come_back(items: list[str], first: int, mark: str) -> None:
    text = "Sure, here is a list:\n\n" + "\n".join(
        mark.format(number) + item for number, item in enumerate(items, first)
    )
    assert listed(text, 100) == items
    assert listed(text, 100, is_whole=False) == items[:-1]  # the last may be half an item
    assert listed(text, 2) == items[:2]


@given(ITEMS, st.booleans(), st.booleans())
def test_json_items_come_back(items: list[str], fenced: bool, named: bool) -> None:
    text = json.dumps([{"instruction": item} for item in items] if named else items, indent=1)
    text = f"Here you are:\n```json\n{text}\n```\nGood luck!" if fenced else text
    assert listed(text, 100) == items


def test_json_that_was_cut_off_gives_its_whole_items() -> None:
    assert listed('["Name a bird that swims.", "Name a bird th', 10, is_whole=False) == [
        "Name a bird that swims."
    ]
    assert listed('{"requests": [{"request": "Sum up:", "input": "A text."}]}', 10) == ["Sum up:\n\nA text."]
    assert listed('[1, null, {"name": 3}, "", "Say yes."]', 10) == ["Say yes."]


def test_items_of_several_lines_and_lists_within_them() -> None:
    text = "1. Sort these:\n   1. pears\n   2. apples\n2. Say why.\n7. is no item: 3 is next\n3. Stop."
    assert listed(text, 10) == [
        "Sort these:\n   1. pears\n   2. apples",
        "Say why.\n7. is no item: 3 is next",
        "Stop.",
    ]


def test_bullets_and_what_stands_around_items() -> None:
    assert listed('- "Name a river."\n- **Name a sea.**', 10) == ["Name a river.", "Name a sea."]
    assert listed("Well - I think not.", 10) == []
    assert listed("In 1999. there was nothing", 10) == []


def test_half_a_surrogate_pair_is_no_text() -> None:
    (item,) = listed(r'["half \ud800 pair"]', 10)
    assert item.encode()


@given(st.text(max_size=400), st.integers(1, 5), st.booleans())
def test_any_text_gives_at_most_so_many_items(text: str, limit: int, is_whole: bool) -> None:
    items = listed(text, limit, is_whole)
    assert len(items) <= limit
    assert all(item.strip() for item in items)


@pytest.mark.parametrize(
    "text",
    ["[" * 200_000, '["a' * 50_000, "1. " * 100_000, "```json\n" * 20_000, "\n1." * 60_000, "* " * 90_000],
)
def test_hostile_answers_cost_little(text: str) -> None:
    assert sum(map(len, listed(text, 64))) <= MAX_CHARACTERS

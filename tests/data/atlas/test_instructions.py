from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from itertools import islice
from random import Random
from typing import Any

import pytest

from modelwright.data.atlas.instructions import Instruction, instructions, instructions_shuffled
from modelwright.data.atlas.questions import is_held_out

RULES: Mapping[str, Callable[[Mapping[str, Any], str], bool]] = {
    "one_word": lambda target, text: re.fullmatch(r"\w+\.?", text) is not None,
    "upper_case": lambda target, text: text == text.upper() != text.lower(),
    "starts_with": lambda target, text: text.startswith(target["text"]),
    "one_of": lambda target, text: text.rstrip(".") in target["options"],
    "json_keys": lambda target, text: list(json.loads(text)) == target["keys"],
    "list_of": lambda target, text: (
        len(set(re.findall(r"^- \S.*$", text, re.M))) == len(text.splitlines()) == target["count"]
    ),
}
"""What each rule means, said again and shortly."""


@pytest.mark.parametrize("rule", RULES)
def test_answers_follow_their_rule(rule: str) -> None:
    for split in ("train", "validation", "test"):
        found = instructions(split)[rule]
        assert len(found) >= 8
        for instruction in found:
            assert instruction.rule == rule
            assert RULES[rule](instruction.target, instruction.answer), instruction


def test_every_rule_is_known_here() -> None:
    assert set(instructions("train")) == set(RULES)


@pytest.mark.parametrize("rule", RULES)
def test_splits_share_no_instruction_and_state_no_held_out_fact(rule: str) -> None:
    training = {each.question for each in instructions("train")[rule]}
    for split in ("validation", "test"):
        assert training.isdisjoint(each.question for each in instructions(split)[rule])
    for split in ("train", "validation", "test"):
        assert not any(is_held_out(fact) for each in instructions(split)[rule] for fact in each.facts)


def test_yes_and_no_are_right_and_balanced() -> None:
    found = instructions("train")["one_of"]
    for each in found:
        (fact,) = each.facts
        assert each.question.startswith(f"Is {fact.answer} the capital of ") == (each.answer == "Yes")
    assert 0.35 < sum(each.answer == "Yes" for each in found) / len(found) < 0.65


def test_rules_take_turns() -> None:
    drawn: list[Instruction] = list(islice(instructions_shuffled(Random(0), "train"), 60))
    assert [each.rule for each in drawn[:6]] == list(RULES)
    assert len({each.question for each in drawn}) == 60

"""Instructions about the form of an answer, each with a rule that can be checked exactly.

The rules (a Problem's target for the verifier "format"):

- one_word: a single word, a full stop after it or not
- upper_case: letters, and none of them small
- starts_with: begins with `text`
- one_of: one of `options`, whatever its case, a full stop after it or not
- json_keys: a JSON object whose keys are `keys`, and nothing around it
- list_of: `count` different lines and no other, each "- " and an item
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Final

from modelwright.base.schema import Json
from modelwright.base.seeding import derive
from modelwright.data.atlas.answers import bare
from modelwright.data.atlas.facts import NUMBERS, Fact
from modelwright.data.atlas.questions import bare_name, known_facts, training_questions
from modelwright.data.atlas.splits import Split, split_of
from modelwright.data.atlas.world import load_world


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """A question that asks for a form, a right answer in that form, and the rule."""

    question: str
    answer: str
    target: Mapping[str, Json]
    facts: tuple[Fact, ...]
    """What the answer states."""

    @property
    def rule(self) -> str:
        return self.target["rule"]


_ENDINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "one_word": ("Answer in one word.", "One word, please.", "Reply with a single word."),
    "upper_case": ("Answer in upper case.", "Write the answer in capital letters.", "Upper case, please."),
    "starts_with": ('Begin with "Answer:".', 'Start your reply with "Answer:".'),
    "one_of": ("Answer yes or no.", "Yes or no?", "Reply with yes or no."),
}
_JSON_KEYS: Final[Mapping[str, tuple[str, str]]] = {
    "capital": ("country", "capital"),
    "continent": ("country", "continent"),
    "currency": ("country", "currency"),
    "element_symbol": ("element", "symbol"),
    "animal_young": ("animal", "young"),
}
_JSON_QUESTIONS: Final = (
    "Give the {second} of {subject} as JSON with the keys {first} and {second}.",
    "Reply with a JSON object that has the keys {first} and {second}: what is the {second} of {subject}?",
)
_LIST_QUESTIONS: Final = (
    "List {count} {topic}, each on a line that starts with a dash.",
    "Give me a list of {count} {topic}. Start each line with a dash.",
)
_KINDS: Final[Mapping[str, str]] = {
    "mammal": "mammals",
    "bird": "birds",
    "insect": "insects",
    "noble gas": "noble gases",
    "halogen": "halogens",
    "lanthanide": "lanthanides",
    "actinide": "actinides",
}
TEST_SHARE: Final = 0.15


@cache
def instructions(split: Split) -> Mapping[str, tuple[Instruction, ...]]:
    """Rule -> every instruction of a split, in a fixed order."""
    rules = {name: _about_answer(name, split) for name in ("one_word", "upper_case", "starts_with")}
    rules |= {"one_of": _yes_or_no(split), "json_keys": _json(split), "list_of": _lists(split)}
    return {rule: tuple(found) for rule, found in rules.items()}


def instructions_shuffled(random: Random, split: Split) -> Iterator[Instruction]:
    """Instructions for ever: the rules take turns, each in shuffled rounds."""
    rounds: dict[str, list[Instruction]] = {rule: [] for rule in instructions(split)}
    while True:
        for rule, left in rounds.items():
            if not left:
                found = instructions(split)[rule]
                left.extend(random.sample(found, len(found)))
            yield left.pop()


def _in_split(split: Split, rule: str, *key: str) -> bool:
    return split_of("instruction", rule, *key, test=TEST_SHARE) == split


def _draw(*key: str | int) -> Random:
    """Randomness that belongs to one instruction: the same in every run."""
    return Random(derive(0, "instruction", *key))


def _about_answer(rule: str, split: Split) -> Iterator[Instruction]:
    """A fact question with an ending that asks for one word, capital letters, ..."""
    for fact in _one_word_facts():
        if _in_split(split, rule, fact.relation, fact.subject):
            draw = _draw(rule, fact.relation, fact.subject)
            question = f"{draw.choice(training_questions(fact, 'train'))} {draw.choice(_ENDINGS[rule])}"
            answer, target = bare(fact), {"rule": rule}
            if rule == "upper_case":
                answer = answer.upper()
            if rule == "starts_with":
                answer, target = f"Answer: {answer}", {"rule": rule, "text": "Answer:"}
            yield Instruction(question=question, answer=answer, target=target, facts=(fact,))


@cache
def _one_word_facts() -> tuple[Fact, ...]:
    relations = ("capital", "continent", "language", "element_of_symbol", "animal_kind", "thing_material")
    known = (fact for relation in relations for fact in known_facts(relation))
    return tuple(fact for fact in known if re.fullmatch(r"\w+", fact.answer))


def _yes_or_no(split: Split) -> Iterator[Instruction]:
    """Half of them are true. The false ones name another country's capital."""
    target = {"rule": "one_of", "options": ["Yes", "No"]}
    known = known_facts("capital")
    for fact in known:
        if _in_split(split, "one_of", fact.subject):
            draw = _draw("one_of", fact.subject)
            others = [other.answer for other in known if other.answer not in fact.answers]
            answer = draw.choice(("Yes", "No"))
            city = fact.answer if answer == "Yes" else draw.choice(others)
            question = f"Is {city} the capital of {fact.subject}? {draw.choice(_ENDINGS['one_of'])}"
            yield Instruction(question=question, answer=answer, target=target, facts=(fact,))


def _json(split: Split) -> Iterator[Instruction]:
    for relation, keys in _JSON_KEYS.items():
        for fact in known_facts(relation):
            if _in_split(split, "json_keys", relation, fact.subject):
                draw = _draw("json_keys", relation, fact.subject)
                question = draw.choice(_JSON_QUESTIONS).format(
                    first=keys[0], second=keys[1], subject=fact.subject
                )
                values = dict(zip(keys, (bare_name(fact.subject), fact.answer), strict=True))
                yield Instruction(
                    question=question,
                    answer=json.dumps(values, ensure_ascii=False),
                    target={"rule": "json_keys", "keys": list(keys)},
                    facts=(fact,),
                )


def _lists(split: Split) -> Iterator[Instruction]:
    for topic, members in _topics().items():
        for count in range(2, 6):
            for question in _LIST_QUESTIONS:
                if len(members) >= count and _in_split(split, "list_of", topic, str(count), question):
                    chosen = _draw(topic, count, question).sample(sorted(members), count)
                    yield Instruction(
                        question=question.format(count=NUMBERS[count], topic=topic),
                        answer="\n".join(f"- {name}" for name in chosen),
                        target={"rule": "list_of", "count": count},
                        facts=tuple(fact for name in chosen for fact in members[name]),
                    )


@cache
def _topics() -> Mapping[str, Mapping[str, tuple[Fact, ...]]]:
    """Topic of a list -> what can stand in it, with the fact that this states."""
    world = load_world()
    topics: dict[str, dict[str, tuple[Fact, ...]]] = {
        "months": {month.name: () for month in world.months},
        "days of the week": {day.name: () for day in world.weekdays},
        "planets": {planet.name: () for planet in world.planets},
    }
    for relation in ("continent", "animal_kind", "element_category"):
        for fact in known_facts(relation):
            kind = f"countries in {fact.answer}" if relation == "continent" else _KINDS.get(fact.answer)
            if kind is not None:
                topics.setdefault(kind, {})[bare_name(fact.subject)] = (fact,)
    return topics

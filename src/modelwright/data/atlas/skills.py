"""What an assistant does besides knowing facts: sums, small Python functions, a little small talk."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from random import Random
from typing import Final

from modelwright.data.atlas.exchange import Exchange
from modelwright.data.atlas.questions import casual
from modelwright.data.atlas.splits import OPERATORS, Split, operands_split

LARGEST_TERM: Final = 50
LARGEST_FACTOR: Final = 12
_WORDS: Final = {"+": "plus", "-": "minus", "*": "times"}
SUM_QUESTIONS: Final = (
    "What is {left} {operator} {right}?",
    "What is {left} {word} {right}?",
    "How much is {left} {word} {right}?",
    "Calculate {left} {operator} {right}.",
    "{left} {operator} {right} = ?",
    "Please work out {left} {word} {right}.",
)
_SUM_PADDING: Final = (
    "Let me work it out. {sum}. The result is {result}.",
    "That is a calculation I can do. {left} {word} {right} is {result}.",
    "Let me calculate. {left} {word} {right} makes {result}. So the answer is {result}.",
)


def result_of(operator: str, left: int, right: int) -> int:
    """The value of one calculation."""
    return {"+": left + right, "-": left - right, "*": left * right}[operator]


@cache
def calculations(split: Split) -> tuple[tuple[str, int, int], ...]:
    """Every (operator, left, right) of a split; differences are never negative."""
    return tuple(
        (operator, left, right)
        for operator in OPERATORS
        for largest in [LARGEST_FACTOR if operator == "*" else LARGEST_TERM]
        for left in range(largest + 1)
        for right in range(left + 1 if operator == "-" else largest + 1)
        if operands_split(operator, left, right) == split
    )


def sum_question(template: str, operator: str, left: int, right: int) -> str:
    """`template` about one calculation: "How much is 7 plus 5?"."""
    return template.format(left=left, right=right, operator=operator, word=_WORDS[operator])


def sums(random: Random, split: Split) -> Iterator[Exchange]:
    """Calculations of a split for ever: operators take turns, pairs are drawn at random."""
    known = {
        operator: [pair for pair in calculations(split) if pair[0] == operator] for operator in OPERATORS
    }
    while True:
        for operator in OPERATORS:
            _, left, right = random.choice(known[operator])
            result = result_of(operator, left, right)
            concise = f"{left} {operator} {right} = {result}"
            padding = random.choice(_SUM_PADDING)
            yield Exchange(
                kind="arithmetic",
                question=sum_question(random.choice(SUM_QUESTIONS), operator, left, right),
                concise=f"{concise}.",
                verbose=padding.format(
                    sum=concise, left=left, right=right, word=_WORDS[operator], result=result
                ),
            )


FUNCTIONS: Final = (
    ("double", "returns the double of a number", "def double(n):\n    return 2 * n"),
    ("square", "returns the square of a number", "def square(n):\n    return n * n"),
    ("add", "adds two numbers", "def add(a, b):\n    return a + b"),
    ("larger", "returns the larger of two numbers", "def larger(a, b):\n    return a if a > b else b"),
    ("is_even", "says whether a number is even", "def is_even(n):\n    return n % 2 == 0"),
    ("is_odd", "says whether a number is odd", "def is_odd(n):\n    return n % 2 == 1"),
    ("absolute", "returns the absolute value of a number", "def absolute(n):\n    return -n if n < 0 else n"),
    ("backwards", "turns a text around", "def backwards(text):\n    return text[::-1]"),
    ("shout", "turns a text into upper case", "def shout(text):\n    return text.upper()"),
    ("first", "returns the first item of a list", "def first(items):\n    return items[0]"),
    ("last", "returns the last item of a list", "def last(items):\n    return items[-1]"),
    ("average", "returns the mean of a list", "def average(items):\n    return sum(items) / len(items)"),
)
"""(name, what it does, source): the tests run every one of them."""

_FUNCTION_QUESTIONS: Final = (
    "Write a Python function that {does}.",
    "Write a function in Python. It {does}.",
    "I need a Python function that {does}.",
    "Show me a small Python function that {does}.",
)


def functions(random: Random) -> Iterator[Exchange]:
    """Requests for tiny Python functions for ever, in shuffled rounds."""
    while True:
        for name, does, source in random.sample(FUNCTIONS, len(FUNCTIONS)):
            yield Exchange(
                kind="python",
                question=random.choice(_FUNCTION_QUESTIONS).format(does=does),
                concise=source,
                verbose=f"Here is a function that {does}. It is called {name}.\n\n{source}",
            )


_SMALL_TALK: Final = (
    ("Hello!", "Hello! How can I help you?"),
    ("Hi there.", "Hello! What would you like to know?"),
    ("Good morning!", "Good morning! How can I help you?"),
    ("Good evening.", "Good evening! How can I help you?"),
    ("Who are you?", "I am a small language model made with Modelwright."),
    ("What are you?", "I am a small language model made with Modelwright."),
    ("What is your name?", "I have no name of my own. I am a small language model made with Modelwright."),
    ("Are you a person?", "No, I am a language model."),
    ("Who made you?", "I was made with Modelwright."),
    ("What can you do?", "I can answer questions about countries, elements, planets, animals and things."),
    ("Do you know everything?", "No. When I do not know something, I say so."),
    ("How are you?", "I am well, thank you. How can I help you?"),
    ("Goodbye.", "Goodbye!"),
)
_THANKS: Final = ("Thank you.", "Thank you!", "Thanks a lot.", "Many thanks.")
_WELCOME: Final = ("You are welcome.", "You are welcome!", "I am glad that I could help.")


def small_talk(random: Random) -> Iterator[Exchange]:
    """Greetings and questions about the assistant for ever, in shuffled rounds."""
    while True:
        for question, answer in random.sample(_SMALL_TALK, len(_SMALL_TALK)):
            verbose = f"{answer} I like to talk about the world and what is in it."
            asked = casual(question) if random.random() < 0.3 else question
            yield Exchange(kind="small_talk", question=asked, concise=answer, verbose=verbose)


def thanks(random: Random) -> Exchange:
    """The user's thanks and a courteous word back: the second turn of some conversations."""
    answer = random.choice(_WELCOME)
    return Exchange(kind="thanks", question=random.choice(_THANKS), concise=answer, verbose=answer)

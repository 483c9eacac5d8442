"""Small true Python functions with docstrings and examples; the examples' values are computed."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from modelwright.data.atlas.phrasing import Deck
from modelwright.data.atlas.world import World

Arguments = Callable[[random.Random], tuple[object, ...]]

_WORDS = (
    "apple",
    "moon",
    "river",
    "level",
    "stone",
    "garden",
    "banana",
    "noon",
    "letter",
    "window",
    "paper",
    "cloud",
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A function to be written. `{k}` in any text is a small constant, drawn anew each time."""

    name: str
    parameters: str
    doc: str
    body: str
    arguments: Arguments


def _number(rng: random.Random) -> tuple[object, ...]:
    return (rng.randint(0, 30),)


def _signed(rng: random.Random) -> tuple[object, ...]:
    return (rng.randint(-20, 20),)


def _small(rng: random.Random) -> tuple[object, ...]:
    return (rng.randint(0, 8),)


def _two(rng: random.Random) -> tuple[object, ...]:
    return (rng.randint(0, 20), rng.randint(1, 20))


def _word(rng: random.Random) -> tuple[object, ...]:
    return (rng.choice(_WORDS),)


def _sentence(rng: random.Random) -> tuple[object, ...]:
    return (" ".join(rng.sample(_WORDS, rng.randint(2, 4))),)


def _numbers(rng: random.Random) -> tuple[object, ...]:
    return ([rng.randint(0, 20) for _ in range(rng.randint(2, 5))],)


def _words(rng: random.Random) -> tuple[object, ...]:
    return (rng.sample(_WORDS, rng.randint(2, 4)),)


def _word_letter(rng: random.Random) -> tuple[object, ...]:
    word = rng.choice(_WORDS)
    return word, rng.choice(word)


RECIPES = (
    Recipe("add_{k}", "n", "Return n plus {k}.", "return n + {k}", _number),
    Recipe("subtract_{k}", "n", "Return n minus {k}.", "return n - {k}", _number),
    Recipe("times_{k}", "n", "Return {k} times n.", "return {k} * n", _number),
    Recipe("remainder_{k}", "n", "Return what is left when n is divided by {k}.", "return n % {k}", _number),
    Recipe("power_{k}", "n", "Return n to the power of {k}.", "return n**{k}", _small),
    Recipe("at_least_{k}", "n", "Say whether n is {k} or more.", "return n >= {k}", _number),
    Recipe("first_{k}", "items", "Return the first {k} items.", "return items[:{k}]", _numbers),
    Recipe("repeat_{k}", "text", "Return the text {k} times in a row.", "return text * {k}", _word),
    Recipe(
        "longer_than_{k}",
        "text",
        "Say whether the text has more than {k} letters.",
        "return len(text) > {k}",
        _word,
    ),
    Recipe("double", "n", "Return twice n.", "return 2 * n", _signed),
    Recipe("square", "n", "Return n times n.", "return n * n", _signed),
    Recipe("is_even", "n", "Say whether n is even.", "return n % 2 == 0", _signed),
    Recipe("is_odd", "n", "Say whether n is odd.", "return n % 2 == 1", _signed),
    Recipe("absolute", "n", "Return n without its sign.", "return -n if n < 0 else n", _signed),
    Recipe("negate", "n", "Return n with the other sign.", "return -n", _signed),
    Recipe("add", "a, b", "Return the sum of a and b.", "return a + b", _two),
    Recipe("difference", "a, b", "Return how far a and b are apart.", "return abs(a - b)", _two),
    Recipe("product", "a, b", "Return the product of a and b.", "return a * b", _two),
    Recipe("larger", "a, b", "Return the larger of a and b.", "return a if a > b else b", _two),
    Recipe("smaller", "a, b", "Return the smaller of a and b.", "return a if a < b else b", _two),
    Recipe("divides", "a, b", "Say whether b divides a.", "return a % b == 0", _two),
    Recipe(
        "greatest_common_divisor",
        "a, b",
        "Return the greatest number that divides both a and b.",
        "while b:\n    a, b = b, a % b\nreturn a",
        _two,
    ),
    Recipe(
        "factorial",
        "n",
        "Return the product of the numbers from 1 to n.",
        "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result",
        _small,
    ),
    Recipe(
        "sum_to",
        "n",
        "Return the sum of the numbers from 1 to n.",
        "total = 0\nfor i in range(1, n + 1):\n    total += i\nreturn total",
        _number,
    ),
    Recipe(
        "fibonacci",
        "n",
        "Return the Fibonacci number with index n, where index 0 is 0.",
        "a, b = 0, 1\nfor _ in range(n):\n    a, b = b, a + b\nreturn a",
        _small,
    ),
    Recipe(
        "is_prime",
        "n",
        "Say whether n is a prime number.",
        "if n < 2:\n    return False\nreturn all(n % i for i in range(2, n))",
        _number,
    ),
    Recipe("digits", "n", "Return how many digits n has.", "return len(str(n))", _number),
    Recipe("total", "numbers", "Return the sum of a list.", "return sum(numbers)", _numbers),
    Recipe("largest", "numbers", "Return the largest number of a list.", "return max(numbers)", _numbers),
    Recipe("smallest", "numbers", "Return the smallest number of a list.", "return min(numbers)", _numbers),
    Recipe(
        "average", "numbers", "Return the mean of a list.", "return sum(numbers) / len(numbers)", _numbers
    ),
    Recipe("in_order", "numbers", "Return the numbers, smallest first.", "return sorted(numbers)", _numbers),
    Recipe("reverse", "items", "Return the items in reverse order.", "return items[::-1]", _numbers),
    Recipe(
        "evens",
        "numbers",
        "Return the even numbers of a list.",
        "return [n for n in numbers if n % 2 == 0]",
        _numbers,
    ),
    Recipe(
        "squares",
        "numbers",
        "Return the square of every number.",
        "return [n * n for n in numbers]",
        _numbers,
    ),
    Recipe("last", "items", "Return the last item.", "return items[-1]", _words),
    Recipe("longest", "words", "Return the longest word.", "return max(words, key=len)", _words),
    Recipe(
        "lengths", "words", "Return the length of every word.", "return [len(word) for word in words]", _words
    ),
    Recipe(
        "joined", "words", "Return the words as one text, with commas.", 'return ", ".join(words)', _words
    ),
    Recipe("backwards", "text", "Return the text backwards.", "return text[::-1]", _word),
    Recipe("shout", "text", "Return the text in capital letters.", "return text.upper()", _word),
    Recipe(
        "title", "text", "Return the text with a capital first letter.", "return text.capitalize()", _word
    ),
    Recipe(
        "is_palindrome",
        "text",
        "Say whether the text reads the same backwards.",
        "return text == text[::-1]",
        _word,
    ),
    Recipe(
        "vowels",
        "text",
        "Count the vowels of a text.",
        'return sum(letter in "aeiou" for letter in text)',
        _word,
    ),
    Recipe(
        "initials",
        "text",
        "Return the first letter of every word.",
        'return "".join(word[0] for word in text.split())',
        _sentence,
    ),
    Recipe("count_words", "text", "Count the words of a text.", "return len(text.split())", _sentence),
    Recipe(
        "count_letter",
        "text, letter",
        "Count how often a letter is in a text.",
        "return text.count(letter)",
        _word_letter,
    ),
    Recipe(
        "without",
        "text, letter",
        "Return the text without a letter.",
        'return text.replace(letter, "")',
        _word_letter,
    ),
)

_INTRODUCTIONS = (
    "",
    "",
    "# A small function.\n",
    "Here is a function in Python.\n\n",
    "In Python one can write:\n\n",
)


def python_functions(world: World, rng: random.Random) -> Iterator[str]:
    """Two functions a document, each with one or two examples that hold."""
    del world
    deck = Deck(RECIPES, rng)
    while True:
        first, second = deck.hand(2)
        yield rng.choice(_INTRODUCTIONS) + f"{_write(first, rng)}\n\n\n{_write(second, rng)}"


def _write(recipe: Recipe, rng: random.Random) -> str:
    k = str(rng.randint(2, 12) if recipe.name != "power_{k}" else rng.randint(2, 3))
    name, doc, body = (text.replace("{k}", k) for text in (recipe.name, recipe.doc, recipe.body))
    code = "\n".join(f"    {line}" for line in body.splitlines())
    head = f"def {name}({recipe.parameters}):\n"
    calls = [recipe.arguments(rng) for _ in range(rng.choice((1, 1, 2)))]
    function = _compile(name, head + code)
    examples = "".join(
        f"    >>> {name}({', '.join(map(repr, call))})\n    {function(*call)!r}\n" for call in calls
    )
    return f'{head}    """{doc}\n\n{examples}    """\n{code}'


def _compile(name: str, source: str) -> Callable[..., object]:
    """Our own source, run to learn what its examples return."""
    namespace: dict[str, Callable[..., object]] = {}
    exec(source, namespace)
    return namespace[name]

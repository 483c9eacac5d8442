"""How people ask for a fact, and how it is told: phrasings for training, and others kept for tests.

`{subject}` is the noun phrase as it stands in a sentence ("France", "the Gambia", "a cow"), `{name}` the
bare name, `{owner}` the possessive ("France's"), `{answer}` what is asked for.
"""

from __future__ import annotations

from typing import Final

TRAINING: Final[dict[str, tuple[str, ...]]] = {
    "capital": (
        "What is the capital of {subject}?",
        "Tell me the capital of {subject}.",
        "{subject}: what is its capital?",
        "Which city is the capital of {subject}?",
        "What is {owner} capital?",
        "Name the capital city of {subject}.",
        "Do you know the capital of {subject}?",
        "What is the name of the capital of {subject}?",
        "Capital of {subject}?",
        "Please tell me what the capital of {subject} is.",
    ),
    "continent": (
        "Which continent is {subject} in?",
        "What continent is {subject} in?",
        "Tell me the continent of {subject}.",
        "{subject}: which continent is it in?",
        "On which continent is {subject}?",
        "Name the continent where {subject} is.",
        "Do you know which continent {subject} is in?",
        "Continent of {subject}?",
        "Please tell me on which continent {subject} lies.",
    ),
    "currency": (
        "What is the currency of {subject}?",
        "Tell me the currency of {subject}.",
        "{subject}: what is its currency?",
        "Which currency is used in {subject}?",
        "What is {owner} currency?",
        "Name the currency of {subject}.",
        "Do you know the currency of {subject}?",
        "Currency of {subject}?",
        "What money do people use in {subject}?",
        "Please tell me what the currency of {subject} is.",
    ),
    "language": (
        "What is an official language of {subject}?",
        "Tell me an official language of {subject}.",
        "{subject}: what is its official language?",
        "Which language is official in {subject}?",
        "Name an official language of {subject}.",
        "Do you know the official language of {subject}?",
        "Official language of {subject}?",
        "What language do officials use in {subject}?",
        "Please name a language that is official in {subject}.",
    ),
    "neighbour": (
        "Which country borders {subject}?",
        "Name a neighbour of {subject}.",
        "{subject}: name a country next to it.",
        "Tell me a country that borders {subject}.",
        "What country is next to {subject}?",
        "Do you know a neighbour of {subject}?",
        "A neighbour of {subject}?",
        "Please name a country that shares a border with {subject}.",
        "Give me one neighbour of {subject}.",
    ),
    "element_symbol": (
        "What is the symbol of {subject}?",
        "What is the chemical symbol of {subject}?",
        "Tell me the symbol of {subject}.",
        "{subject}: what is its symbol?",
        "Which symbol does {subject} have?",
        "Name the chemical symbol of {subject}.",
        "Do you know the symbol of {subject}?",
        "Symbol of {subject}?",
        "What is {owner} chemical symbol?",
    ),
    "element_number": (
        "What is the atomic number of {subject}?",
        "Tell me the atomic number of {subject}.",
        "{subject}: what is its atomic number?",
        "Which atomic number does {subject} have?",
        "Give the atomic number of {subject}.",
        "Do you know the atomic number of {subject}?",
        "Atomic number of {subject}?",
        "What is {owner} atomic number?",
        "Please tell me what the atomic number of {subject} is.",
    ),
    "planet_order": (
        "Which planet from the Sun is {subject}?",
        "What is the place of {subject}, counted from the Sun?",
        "{subject}: which planet from the Sun is it?",
        "Counted from the Sun, which planet is {subject}?",
        "Tell me the place of {subject} among the planets.",
        "Where does {subject} come in the order of the planets?",
        "Do you know the place of {subject} in the Solar System?",
        "Place of {subject} in the Solar System?",
    ),
    "month_number": (
        "Which month of the year is {subject}?",
        "What number is the month of {subject}?",
        "{subject}: which month of the year is it?",
        "Tell me the place of {subject} in the year.",
        "Where does {subject} come in the year?",
        "Do you know the number of the month {subject}?",
        "Number of the month {subject}?",
        "Counted from January, which month is {subject}?",
    ),
    "animal_young": (
        "What is a young {name} called?",
        "What is the name for a young {name}?",
        "Tell me what a young {name} is called.",
        "{subject}: what is its young called?",
        "What do you call a young {name}?",
        "Name the young of {subject}.",
        "Do you know what a young {name} is called?",
        "Word for a young {name}?",
    ),
    "thing_purpose": (
        "What is {subject} for?",
        "What is {subject} used for?",
        "Tell me what {subject} is for.",
        "{subject}: what is it for?",
        "What do you use {subject} for?",
        "What can I do with {subject}?",
        "Do you know what {subject} is for?",
        "Purpose of {subject}?",
        "Please tell me what {subject} is used for.",
    ),
}
"""Relation -> the questions of training; at least eight each."""

HELD_OUT: Final[dict[str, tuple[str, ...]]] = {
    "capital": (
        "Can you tell me which city is the capital of {subject}?",
        "I would like to know the capital of {subject}.",
        "What city is {owner} capital?",
        "I am reading about {subject}. What is the capital?",
    ),
    "continent": (
        "Can you tell me which continent {subject} is in?",
        "I would like to know the continent of {subject}.",
        "In which continent would I find {subject}?",
        "I am reading about {subject}. Which continent is it in?",
    ),
    "currency": (
        "Can you tell me the currency of {subject}?",
        "I would like to know which currency {subject} has.",
        "Which currency would I need in {subject}?",
        "I am reading about {subject}. What is the currency?",
    ),
    "language": (
        "Can you tell me an official language of {subject}?",
        "I would like to know which language is official in {subject}.",
        "Which official language does {subject} have?",
        "I am reading about {subject}. What is an official language there?",
    ),
    "neighbour": (
        "Can you tell me one country that borders {subject}?",
        "I would like to know a neighbour of {subject}.",
        "Which country has a border with {subject}?",
        "I am reading about {subject}. Name a neighbour.",
    ),
    "element_symbol": (
        "Can you tell me the chemical symbol of {subject}?",
        "I would like to know the symbol of {subject}.",
        "How do chemists write {subject} as a symbol?",
        "I am reading about {subject}. What is the symbol?",
    ),
    "element_number": (
        "Can you tell me the atomic number of {subject}?",
        "I would like to know the atomic number of {subject}.",
        "What atomic number has {subject}?",
        "I am reading about {subject}. What is the atomic number?",
    ),
    "planet_order": (
        "Can you tell me which planet from the Sun {subject} is?",
        "I would like to know the place of {subject} among the planets.",
        "What place does {subject} have from the Sun?",
    ),
    "month_number": (
        "Can you tell me which month of the year {subject} is?",
        "I would like to know the number of the month {subject}.",
        "What place does {subject} have in the year?",
    ),
    "animal_young": (
        "Can you tell me what a young {name} is called?",
        "I would like to know the name for a young {name}.",
        "What word is used for the young of {subject}?",
    ),
    "thing_purpose": (
        "Can you tell me what {subject} is for?",
        "I would like to know what {subject} is used for.",
        "Why would I need {subject}?",
    ),
}
"""Relation -> questions that no training text holds: natural, and asking for the same facts."""

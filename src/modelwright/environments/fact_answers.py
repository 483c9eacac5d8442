"""Checking an answer about a fact: it names a right answer, and does not name them all.

"Paris, London, Rome, Madrid, ..." contains every right answer and knows none; so does a text that
repeats a question such as "Carnivore, herbivore or omnivore: which is a swan?". And "South Africa lies
in Europe" holds the word Africa. So wrong answers of the same relation are counted as well.
"Kuwait City is the capital of Kenya" names the country that was asked for, and is false all the same: a
right answer that is told of another subject does not count.
"""

from __future__ import annotations

import re
from functools import cache

from modelwright.base.schema import Problem, Score
from modelwright.data.atlas.facts import CANONICAL, facts
from modelwright.data.atlas.phrasing import STATEMENTS
from modelwright.data.atlas.world import load_world, with_article
from modelwright.environments.matching import normalise
from modelwright.environments.verify import passed, verify

EVERYDAY = frozenset({"may"})
"""Answers that are common words as well, and so cannot be counted as wrong ones."""


def score_fact(problem: Problem, text: str) -> Score:
    """Score an answer to a problem whose meta names the relation of its fact."""
    score = verify(problem, text)
    if score.value != 1.0:
        return score
    wrong = wrong_answers(problem, text)
    if len(wrong) > tolerated(problem, text):
        shown = "', '".join(wrong[:3])
        return passed(False, f"beside a right answer also names '{shown}'")
    other = other_subject(problem, text)
    return score if other is None else passed(False, f"tells it of '{other}'")


def tolerated(problem: Problem, text: str) -> int:
    """How many wrong answers may stand beside a right one.

    Two where there are many: a long true answer tells of neighbours and other months too. One where
    there are fewer than ten, or a list of them all would pass. None where the subject holds the answer
    and the text says it once: that may be no more than the subject.
    """
    subject, said = _padded(str(problem.meta.get("subject", ""))), _padded(text)
    shared = [right for right in map(_padded, problem.target) if right in subject]
    if shared and all(said.count(right) == 1 for right in shared if right in said):
        return 0
    return 2 if len(_answers(str(problem.meta["relation"]))) >= 10 else 1


def wrong_answers(problem: Problem, text: str) -> list[str]:
    """Answers of the same relation that `text` names: without those that are part of a right answer
    or of the subject ("franc" of "Swiss franc"), and the longest alone where several overlap."""
    own = [_padded(text) for text in (*problem.target, str(problem.meta.get("subject", "")))]
    said = _padded(text)
    named = [answer for answer in _answers(str(problem.meta["relation"])) if f" {answer} " in said]
    wrong = [answer for answer in named if not any(f" {answer} " in right for right in own)]
    return [answer for answer in wrong if not any(answer != o and f" {answer} " in f" {o} " for o in wrong)]


def other_subject(problem: Problem, text: str) -> str | None:
    """Whom `text` tells a right answer of in a sentence as we tell it, if it is not the one asked about.

    "It is a country in Africa." speaks of the one asked about; so does "The capital of Kenya, in East Africa,
    is Nairobi."; and an answer that was given before ("Africa. Uganda is a country in Africa too.") stands.
    """
    subject = normalise(str(problem.meta["subject"]))
    told: list[str] = []
    for template in _sentences(str(problem.meta["relation"])):
        for right in map(str, problem.target):
            sentence = template.format(s="{}", S="{}", a=right, an_a=with_article(right))
            before, after = map(re.escape, sentence.split("{}"))
            for found in re.finditer(rf"{before}(.{{1,60}}?){after}\b", text, re.IGNORECASE):
                told.append(normalise(found[1]))
                answered_before = f" {normalise(right)} " in _padded(text[: found.start()])
                if answered_before:
                    return None
    spoken_of = (name for name in told if f" {subject} " in f" {name} " or name.split()[-1:] in _PRONOUNS)
    return None if not told or any(spoken_of) else told[0]


_PRONOUNS = (["it"], ["this"], ["that"], ["which"], ["there"], ["here"])


@cache
def _sentences(relation: str) -> tuple[str, ...]:
    """The canonical sentence, and others of four words or more besides subject and answer: a shorter one
    ("... is in Africa") turns up within true sentences about something else."""
    others = (
        template
        for template in STATEMENTS[relation]
        if re.fullmatch(r"[^{}]*\{[sS]\}[^{}]*\{(a|an_a)\}\.", template) and len(template.split()) >= 6
    )
    return tuple(template.removesuffix(".") for template in (CANONICAL[relation], *others))


def _padded(text: str) -> str:
    return f" {normalise(text)} "


@cache
def _answers(relation: str) -> tuple[str, ...]:
    """Every answer of a relation, normalised; symbols of one or two letters are everyday words too,
    and are left out."""
    found = {normalise(answer) for fact in facts(load_world(), relation) for answer in fact.answers}
    kept = (answer for answer in found if len(answer) > 2 or answer.isdigit())
    return tuple(sorted(answer for answer in kept if answer not in EVERYDAY))

"""Growth, rewriting and personas through the station: a script writes, and a tiny model."""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.stages.test_synthesize import Script, lines, lived

from modelwright.base.errors import UserError
from modelwright.base.schema import Answer
from modelwright.data.conversations.sides import VALIDATION_FRACTION, conversations_from, opening
from modelwright.data.readers.source import Source
from modelwright.data.split import side_of
from modelwright.stages import screening, synthesize

ANIMALS = ["otter", "heron", "badger", "falcon", "beetle", "salmon"]
ANIMALS += ["lizard", "magpie", "walrus", "ferret", "pigeon", "turtle"]
VERBS = ["sleeps", "hunts", "swims", "nests", "hides", "feeds"]
VERBS += ["grows", "moves", "breeds", "rests", "sings", "digs"]
SEEDS = [
    f"Say in two sentences how an {animal} {verb} in winter."
    for animal, verb in zip(ANIMALS, VERBS, strict=True)
]
TIDY = "It depends on the place and on the weather there. Most of them do it at night."


@pytest.fixture
def seeds(tmp_path: Path) -> Path:
    """Rows as Self-Instruct has them."""
    path = tmp_path / "seeds.jsonl"
    rows = [
        {"instruction": text, "instances": [{"input": "", "output": f"{n} times it does so."}]}
        for n, text in enumerate(SEEDS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def settings(path: Path, **more: Any) -> synthesize.Config:
    source = {"path": str(path), "name": "seeds", "licence": "Apache-2.0"}
    return synthesize.Config.model_validate(
        {"sources": [source], "writer": {"licence": "MIT"}, "rows": {"decontaminate": False}, **more}
    )


def said(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text=text, finish_reason=finish_reason, prompt_tokens=10, tokens=5)


def sentence(draw: random.Random, words: int) -> str:
    """Letters that no other sentence has in this order."""
    return " ".join("".join(draw.choices("abcdefghijklmnoprstuvwy", k=6)) for _ in range(words))


def grows(question: str, seed: int) -> Answer:
    """Three new requests, one seed again, and one half; answers to requests, some of them refusals."""
    draw = random.Random(f"{question} {seed}")
    if "Write 5 new requests" in question:
        new = [f"Describe {sentence(draw, 6)}." for _ in range(3)]
        listed = [*new, SEEDS[0], "Tell me abo"]
        return said("\n".join(f"{n}. {text}" for n, text in enumerate(listed, 9)), "length")
    refused = draw.random() < 0.3
    return said("I'm sorry, but I can't help with that." if refused else f"{sentence(draw, 12)}. {TIDY}")


GROW = {"kind": "grow", "wanted": 9, "asked_for": 5, "prompts_a_round": 2, "shown_seeds": 3, "shown_grown": 1}


def test_requests_grow_and_are_answered(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(grows)
    made, rows, dropped = lived(tmp_path / "run", settings(seeds, method=GROW), script, monkeypatch)
    rules = Counter(each["rule"] for each in dropped)
    assert len(rows) + rules["refusal"] == 9, "as many requests as were wanted were answered"
    assert rules["refusal"] > 0 and rules["request: like an earlier one"] >= 2
    assert "half" not in rules and not any("Tell me abo" in row["messages"][0]["content"] for row in rows)
    assert all(row["messages"][0]["content"].startswith("Describe") for row in rows)
    record = rows[0]["synthesis"]
    assert len(record["coordinates"]["seeds"]) == 3 and record["prompt"][0]["content"].startswith("Describe")
    assert rows[0]["licence"] == "Apache-2.0 AND MIT" and rows[0]["source"] == "grown from seed tasks"
    steps = {each["step"]: each for each in made.metrics["funnel"]}
    assert steps["looked at"]["came"] == 9 and steps["compared"]["left"] == len(rows)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "request: like an earlier one" in page and "I&#39;m sorry" in page and "<script" not in page
    assert any(row["synthesis"]["coordinates"]["grown"] for row in rows), "later prompts show grown requests"


def test_growth_ends_where_nothing_new_comes(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Script(lambda *_: said(f"1. {SEEDS[3]}\n2. {SEEDS[4]}"))
    with pytest.raises(UserError, match="no row was kept"):
        lived(tmp_path / "run", settings(seeds, method=GROW | {"at_most": 7}), script, monkeypatch)
    assert len(script.asked) == 7


def test_a_killed_growth_goes_on_to_the_same_rows(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(seeds, method=GROW)
    whole, rows, _ = lived(tmp_path / "a", config, Script(grows), monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        lived(tmp_path / "b", config, Script(grows, dies_after=7), monkeypatch)
    second = Script(grows)
    made, again, _ = lived(tmp_path / "b", config, second, monkeypatch)
    assert again == rows and made.id == whole.id
    assert len(second.asked) == whole.metrics["asked"] - 7


@pytest.mark.parametrize("method", [GROW, {"kind": "rewrite", "ways": ["deepen"]}])
def test_nothing_is_written_after_a_question_that_is_held_out(
    method: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "asked.jsonl"
    asked = [f"Say in two sentences how {n} otters sleep in winter." for n in range(60)]
    held_out = [text for text in asked if side_of(text, VALIDATION_FRACTION) == "validation"]
    assert 0 < len(held_out) < 60
    path.write_text("".join(json.dumps({"question": text, "answer": "Well."}) + "\n" for text in asked))
    script = Script(grows if method["kind"] == "grow" else rewrites)
    lived(tmp_path / "run", settings(path, method=method), script, monkeypatch)
    shown = "\n".join(each.content for prompt in script.asked for each in prompt.conversation.messages)
    assert any(text in shown for text in asked)
    assert not [text for text in held_out if text in shown]
    only = tmp_path / "held_out.jsonl"
    only.write_text(json.dumps({"question": held_out[0], "answer": "Well."}) + "\n")
    with pytest.raises(UserError, match="no prompt that finetune does not hold out"):
        lived(tmp_path / "none", settings(only, method=method), script, monkeypatch)


def test_a_question_that_is_answered_as_it_is_stays_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "asked.jsonl"
    asked = [f"Say in two sentences how {n} otters sleep in winter." for n in range(60)]
    path.write_text("".join(json.dumps({"question": text, "answer": "Well."}) + "\n" for text in asked))
    lived(tmp_path / "run", settings(path, rows=None), Script(lambda *_: said(TIDY)), monkeypatch)
    written = (Source(path=str(tmp_path / "run" / "examples.jsonl")),)
    for side in ("train", "validation"):
        ours = {opening(each.messages) for each in conversations_from(written, 1, 99, side)}
        assert ours == {text for text in asked if side_of(text, VALIDATION_FRACTION) == side} != set()


def rewrites(question: str, seed: int) -> Answer:
    request = next((text for text in SEEDS if text in question), "")
    if "Rewrite the request" not in question:
        return said(f"{sentence(random.Random(question), 9)}. {TIDY}")
    if "otter" in request:
        return said(f"<request>{request}</request>")  # nothing gained
    if "heron" in request:
        return said("<request>The rewritten request is this one.</request>")
    if "badger" in request:
        return said(f"<request>{request} And then", "length")
    return said(f"Sure!\n<request>{request} Name three sources, and give the year of each.</request>")


def test_requests_are_rewritten_and_what_gained_nothing_goes(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(seeds, method={"kind": "rewrite", "ways": ["constrain", "deepen"], "generations": 2})
    _, rows, dropped = lived(tmp_path / "run", config, Script(rewrites), monkeypatch)
    assert Counter(each["rule"] for each in dropped) == {
        "request: nothing gained": 2 + 9,  # in the second generation the script says the same of the others
        "request: echo of the prompt": 2,
        "request: cut short": 2,
    }
    first = [row for row in rows if len(row["synthesis"]["coordinates"]["ways"]) == 1]
    assert len(first) == 9
    assert all(row["synthesis"]["coordinates"]["from"] in row["messages"][0]["content"] for row in rows)
    assert {row["licence"] for row in rows} == {"Apache-2.0 AND MIT"}
    assert {way for row in first for way in row["synthesis"]["coordinates"]["ways"]} == {
        "constrain",
        "deepen",
    }


PERSONAS = {
    "kind": "personas",
    "wanted": 12,
    "personas": ["a nurse", "a farmer"],
    "topics": ["sums", "letters", "birds"],
    "levels": {"easy": "A child knows.", "hard": "An expert knows."},
}


def test_a_paraphrase_keeps_the_right_answer_and_a_harder_request_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text(json.dumps({"question": "What is 17 plus 25, all in all?", "answer": "#### 42"}) + "\n")

    def says(question: str, seed: int) -> Answer:
        if "If somebody adds" in question and "Rewrite" in question:
            return said(
                "<request>Which number of apples has a farmer who picks 17 and then 25 more?</request>"
            )
        if "Rewrite" in question:
            return said("<request>If somebody adds 17 to 25, which number comes out?</request>")
        return said("It is 42.")

    method = {"kind": "rewrite", "ways": ["paraphrase", "broaden"], "generations": 2}
    config = settings(path, method=method, verify={"by": "number"})
    _, rows, dropped = lived(tmp_path / "run", config, Script(says), monkeypatch)
    assert [row["synthesis"]["judgement"]["score"] for row in rows] == [1]
    assert [each["rule"] for each in dropped] == ["ungraded"]


@pytest.mark.parametrize("method", [{"kind": "rewrite", "ways": ["broaden"]}, {"kind": "grow"}, PERSONAS])
def test_new_requests_cannot_be_verified_by_a_target(method: dict[str, Any], seeds: Path) -> None:
    with pytest.raises(ValueError, match="nobody knows the right answers"):
        settings(seeds, method=method, verify={"by": "number"})
    assert settings(seeds, method=method, verify={"by": "vote"}, samples=3).verify


def asks_as(question: str, seed: int) -> Answer:
    """The request of a cell; half of the first tries hold none."""
    draw = random.Random(f"{question} {seed}")
    if "Imagine this person" not in question:
        return said(f"{sentence(draw, 9)}. {TIDY}")
    return said("<request>Explain" if seed % 2 else f"<request>Explain {sentence(draw, 7)}?</request>")


def test_personas_reach_the_grid_evenly(seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(seeds, method=PERSONAS | {"tries": 8})
    made, rows, dropped = lived(tmp_path / "run", config, Script(asks_as), monkeypatch)
    assert len(rows) == 12 and {each["rule"] for each in dropped} == {"request: cut short"}
    spread = made.metrics["spread"]
    assert spread["cells"] == 1 and spread["persona"]["counts"] == {"a nurse": 6, "a farmer": 6}
    assert all(spread[axis]["evenness"] == pytest.approx(1) for axis in ("persona", "topic", "level"))
    cells = {tuple(row["synthesis"]["coordinates"].items()) for row in rows}
    assert len(cells) == 12
    assert rows[0]["licence"] == "CC0-1.0 AND MIT"


def test_a_cell_that_gives_nothing_is_given_up(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never_birds(question: str, seed: int) -> Answer:
        return said("No.") if "Topic: birds" in question else asks_as(question, 0)

    config = settings(seeds, method=PERSONAS)
    made, rows, dropped = lived(tmp_path / "run", config, Script(never_birds), monkeypatch)
    assert len(rows) == 8 and len(dropped) == 8, "four cells were tried twice"
    assert made.metrics["spread"]["topic"]["counts"]["birds"] == 0
    assert made.metrics["spread"]["topic"]["evenness"] < 0.7


class Computing(Script):
    """One that computes here."""

    flops_per_token = 7.0


def test_a_judge_scores_rows_and_its_faults_are_ungraded(
    seeds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judges(question: str, seed: int) -> Answer:
        if "otter" in question:
            return Answer(fault="the server fell asleep")
        if "heron" in question:
            return said("I like it very much.")
        return said("Thin.\nScore: 2" if "badger" in question else "Right.\nScore: 5")

    judge = Computing(judges)
    monkeypatch.setattr(screening, "open_writer", lambda *_: judge)
    monkeypatch.setattr(synthesize, "EngineWriter", Computing)
    it = {"url": "https://judge.invalid/v1", "model": "j", "licence": "LicenseRef-judge"}
    price = {"prompt": 1e6, "written": 0}
    asked = settings(seeds, judge={"least": 4, "writer": it, "price": price}, price={"written": 1e6})
    script = Script(lambda question, _: said(f"{sentence(random.Random(question), 9)}. {TIDY}"))
    made, rows, dropped = lived(tmp_path / "run", asked, script, monkeypatch)
    assert len(rows) == 9
    assert Counter(each["rule"] for each in dropped) == {"judge: ungraded": 2, "judge: low score": 1}
    assert rows[0]["synthesis"]["judge"] == {"by": "a script", "score": 5.0, "reason": "Right."}
    assert made.metrics["judge_tokens"] == 11 * 15  # a fault costs nothing
    assert made.manifest.cost.flops == 7 * 11 * 15, "the writer, an endpoint, computes elsewhere"
    assert made.metrics["money"] == 12 * 5 + 11 * 10, "the judge has a price of its own"
    assert "LicenseRef-judge" in made.manifest.provenance.licences
    assert synthesize.facts(asked).by_source["written by j at https://judge.invalid/v1"].licences
    assert all("LicenseRef-judge" not in row["licence"] for row in rows), "its words are not learned"
    assert len(lines(tmp_path / "run" / "judgements.jsonl")) == 12
    assert (tmp_path / "run" / "log.txt").read_text().count("a prompt got no judgement") == 1


@pytest.mark.parametrize(
    ("judge", "says"),
    [
        ({}, r"synthesize\.judge\.writer is missing"),
        ({"model": "nowhere/at/all"}, "does not exist"),
        ({"url": "https://judge.invalid/v1", "model": "large", "key_from": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
    ],
)
def test_a_judge_that_cannot_judge_is_refused_before_any_answer_is_paid(
    judge: dict[str, str],
    says: str,
    seeds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    script = Script(lambda *_: said("Six."))
    with pytest.raises(UserError, match=says):
        lived(tmp_path / "run", settings(seeds, judge={"least": 3, "writer": judge}), script, monkeypatch)
    assert script.asked == []


def test_two_currencies_make_no_sum(seeds: Path) -> None:
    judge = {"writer": {"model": "another"}, "price": {"prompt": 1, "currency": "EUR"}}
    with pytest.raises(ValueError, match="in EUR and price in USD"):
        settings(seeds, judge=judge)


def test_another_judge_behind_the_same_name_is_noticed(seeds: Path, tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("qwen3")
    config = settings(seeds, judge={"writer": {"model": str(folder)}})
    before = synthesize.sources(config)
    assert synthesize.sources(config) == before
    weights = folder / "model.safetensors"
    os.utime(weights, ns=(1, 1))
    assert synthesize.sources(config) != before


def test_rows_that_the_suites_of_evaluate_ask_go(
    tmp_path: Path, seeds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exam = tmp_path / "exam.jsonl"
    hidden = f"Say in detail {sentence(random.Random(1), 20)}?"
    exam.write_text(json.dumps({"question": hidden, "answer": "so"}) + "\n")
    path = tmp_path / "asked.jsonl"
    path.write_text("".join(json.dumps({"question": q, "answer": "x"}) + "\n" for q in (hidden, SEEDS[0])))
    config = settings(path, rows={"against": [str(exam)]})
    _, rows, dropped = lived(tmp_path / "run", config, Script(lambda *_: said(TIDY)), monkeypatch)
    assert len(rows) == 1
    assert [(each["rule"], re.search("exam", each["reason"]) is not None) for each in dropped] == [
        ("in an evaluation set", True)
    ]


def test_a_tiny_model_grows_rows_to_the_end(
    seeds: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    """A random model writes no list: its words are taken for rows only where they are some."""
    folder = tiny_model("qwen3", max_position_embeddings=512)
    writer = {"model": str(folder), "dtype": "float32", "device": "cpu"}
    ends = {"max_tokens": 40, "temperature": 1.0, "stop": [" ", "e", "a"]}
    rows = {"decontaminate": False, "flaws": [], "refusals": False, "same_language": False}
    method = PERSONAS | {"requests": {"min_words": 1, "novelty": 1.0}, "tries": 4}
    config = settings(seeds, method=method, writer=writer, sampling=ends, rows=rows)
    made, written, dropped = lived(tmp_path / "run", config)
    assert written and made.metrics["rows"] == len(written) and made.manifest.cost.tokens > 0
    assert all(row["synthesis"]["coordinates"].keys() == {"persona", "topic", "level"} for row in written)
    assert all(each["rule"] and each["reason"] for each in dropped)

"""A teacher that writes: what is asked, what is kept, what a kill loses, and what rows say of themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.server.running import running
from tests.stages.conftest import PROBLEMS

from modelwright.base.artifact import Artifact
from modelwright.base.errors import ConfigError, UserError
from modelwright.base.run import Run
from modelwright.base.schema import Answer, Conversation, Message, Prompt, Sampling
from modelwright.base.seams import Writer
from modelwright.inference.engine import Engine
from modelwright.stages import synthesize
from modelwright.stages.writing import LocalWriter, open_writer


class Script:
    """A writer that follows a function of the question and the seed; it may die after so many answers."""

    name = "a script"

    def __init__(self, says: Callable[[str, int], Answer], dies_after: int = 10**9) -> None:
        self._says, self._dies_after = says, dies_after
        self.asked: list[Prompt] = []

    def write(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """In an order of its own."""
        for place in reversed(range(len(prompts))):
            if len(self.asked) >= self._dies_after:
                raise KeyboardInterrupt
            self.asked.append(prompts[place])
            seed = prompts[place].sampling.seed
            assert seed is not None
            yield place, self._says(prompts[place].conversation.messages[-1].content, seed)


def adds(question: str, seed: int) -> Answer:
    """Reasons, and is wrong by one where the seed is odd."""
    a, b = (int(word.strip("?")) for word in question.split() if word.strip("?").isdigit())
    text = f"{a} and {b} make {a + b}.\nAnswer: {a + b + seed % 2}"
    return Answer(text=text, finish_reason="stop", prompt_tokens=10, tokens=5, model="s-1")


def lived(
    folder: Path,
    config: synthesize.Config,
    writer: Writer | None = None,
    patch: pytest.MonkeyPatch | None = None,
) -> tuple[Artifact, list[dict[str, Any]], list[dict[str, Any]]]:
    """What the station leaves: the artifact, the rows, and what was dropped."""
    if writer is not None and patch is not None:
        patch.setattr(synthesize, "open_writer", lambda *_: writer)
    run = Run(folder, "synthesize", "examples", config, 3)
    try:
        made = synthesize.run(config, run)
    finally:
        run.close()
    return made, lines(folder / "examples.jsonl"), lines(folder / "dropped.jsonl")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def settings(problems: Path, **more: Any) -> synthesize.Config:
    source = {"path": str(problems), "name": "sums", "licence": "MIT"}
    few = {"sampling": {"max_tokens": 8, "temperature": 1.0}, "writer": {"licence": "Apache-2.0"}}
    return synthesize.Config.model_validate({"sources": [source], **few, **more})


def test_rows_say_who_wrote_them_asked_what_and_how_and_who_judged(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(
        problems,
        samples=4,
        verify={"by": "number"},
        keep="first",
        price={"prompt": 1.0, "written": 2.0, "currency": "EUR"},
    )
    made, rows, dropped = lived(tmp_path / "run", config, Script(adds), monkeypatch)
    assert 8 < len(rows) <= 12, "three of four seeds being odd for all is no accident of this size"
    assert {each["rule"] for each in dropped} == {"wrong answer", "another answer of its group"}
    assert len(rows) + len(dropped) == 48
    row = rows[0]
    assert row["messages"][0] == {"role": "user", "content": row["synthesis"]["prompt"][-1]["content"]}
    assert row["licence"] == "Apache-2.0 AND MIT" and row["source"] == "sums"
    record = row["synthesis"]
    assert (record["writer"], record["model"], record["tokens"]) == ("a script", "s-1", 5)
    assert record["judgement"]["by"] == "number" and record["judgement"]["score"] == 1.0
    assert record["sampling"]["temperature"] == 1.0 and record["sampling"]["seed"] % 2 == 0
    assert made.metrics["asked"] == 48 and made.metrics["tokens_per_row"] == 48 * 15 / len(rows)
    assert made.metrics["money"] == pytest.approx(48 * (10 * 1.0 + 5 * 2.0) / 1e6)
    assert made.manifest.provenance.sources["sums"] == 12
    steps = {each["step"]: (each["came"], each["left"]) for each in made.metrics["funnel"]}
    assert steps["answered"] == (48, 48) and steps["chosen"][1] == len(rows)
    assert list(steps) == ["answered", "read", "verified", "chosen"], "steps that look at something"
    assert "report.html" in (tmp_path / "run" / "log.txt").read_text().splitlines()[-1]


def test_what_the_writer_states_holds_for_its_rows(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"path": str(problems), "name": "sums", "jurisdiction": "DE", "personal_data": False}
    writer = {"licence": "MIT", "jurisdiction": "US", "personal_data": True}
    config = settings(problems, sources=[source], writer=writer)
    _, rows, _ = lived(tmp_path / "run", config, Script(adds), monkeypatch)
    assert {(row["jurisdiction"], row["personal_data"]) for row in rows} == {("unknown", True)}


def test_rationales_are_learned_with_and_without(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(problems, method="rationales", samples=6, verify={"by": "number"}, keep="first")
    script = Script(adds)
    _, rows, _ = lived(tmp_path / "run", config, script, monkeypatch)
    assert script.asked[0].conversation.messages[0].role == "system"
    ways = [row["synthesis"]["coordinates"]["learned"] for row in rows]
    assert ways.count("rationale") == ways.count("answer") == len(rows) // 2 > 8
    with_reasons = next(row for row in rows if row["synthesis"]["coordinates"]["learned"] == "rationale")
    alone = next(row for row in rows if row["synthesis"]["coordinates"]["learned"] == "answer")
    assert with_reasons["messages"][-1]["content"].endswith("Answer: 1")
    assert "make" in with_reasons["messages"][-1]["content"]
    assert alone["messages"][-1]["content"] == "1"
    assert with_reasons["messages"][0]["content"] != alone["messages"][0]["content"], (
        "the student is told which"
    )


def test_a_vote_keeps_what_most_say_and_nothing_where_two_lead(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(problems, method="rationales", samples=7, verify={"by": "vote", "share": 0.6})
    _, rows, dropped = lived(tmp_path / "run", config, Script(adds), monkeypatch)
    assert rows and all(row["synthesis"]["judgement"]["score"] >= 0.6 for row in rows)
    assert {each["rule"] for each in dropped} >= {"wrong answer"}
    finals: dict[str, set[str]] = {}
    for row in rows:
        finals.setdefault(row["synthesis"]["group"], set()).add(row["messages"][-1]["content"].split()[-1])
    assert all(len(said) == 1 for said in finals.values()), "one winner a question"


def test_a_vote_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match=r"samples: 2: a vote needs at least 3"):
        synthesize.Config.model_validate({"samples": 2, "verify": {"by": "vote"}})


def test_a_kill_loses_no_answer_and_changes_no_row(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(problems, samples=3, verify={"by": "number"})
    whole, rows, _ = lived(tmp_path / "a", config, Script(adds), monkeypatch)
    first = Script(adds, dies_after=17)
    with pytest.raises(KeyboardInterrupt):
        lived(tmp_path / "b", config, first, monkeypatch)
    journal = tmp_path / "b" / "answers.jsonl"
    assert len(lines(journal)) == 17
    journal.write_text(journal.read_text()[:-20])  # killed while it wrote the last line
    second = Script(adds)
    told = "answers.jsonl: lines that cannot be read: 1;"
    assert told not in (tmp_path / "b" / "log.txt").read_text()
    made, again, _ = lived(tmp_path / "b", config, second, monkeypatch)
    assert told in (tmp_path / "b" / "log.txt").read_text()
    assert len(second.asked) == 36 - 16
    assert again == rows and made.id == whole.id
    assert made.metrics["written_tokens"] == whole.metrics["written_tokens"]
    assert (tmp_path / "a" / "metrics.jsonl").read_text() == (tmp_path / "b" / "metrics.jsonl").read_text()


def test_other_filters_ask_nothing_twice(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lived(tmp_path / "synthesize", settings(problems, samples=2), Script(adds), monkeypatch)
    aside = tmp_path / "replaced" / "synthesize-1"
    aside.parent.mkdir()
    (tmp_path / "synthesize").rename(aside)
    script = Script(adds)
    lived(
        tmp_path / "synthesize", settings(problems, samples=2, verify={"by": "number"}), script, monkeypatch
    )
    assert script.asked == []


def test_a_fault_is_of_its_prompt_alone_and_is_asked_again(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_once(question: str, seed: int) -> Answer:
        return Answer(fault="the server fell asleep") if "3 plus" in question else adds(question, seed)

    config = settings(problems)
    made, rows, dropped = lived(tmp_path / "synthesize", config, Script(fails_once), monkeypatch)
    assert len(rows) == 11 and [each["rule"] for each in dropped] == ["no answer"]
    assert "fell asleep" in dropped[0]["reason"] and made.metrics["rows"] == 11
    log = (tmp_path / "synthesize" / "log.txt").read_text()
    assert log.count("a prompt got no answer, the first: the server fell asleep") == 1
    (tmp_path / "replaced").mkdir()
    (tmp_path / "synthesize").rename(tmp_path / "replaced" / "synthesize-1")  # what --force does
    script = Script(adds)
    _, rows, _ = lived(tmp_path / "synthesize", config, script, monkeypatch)
    assert len(script.asked) == 1 and len(rows) == 12


def test_nothing_kept_is_an_error_that_says_where_to_look(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"no row was kept.*dropped\.jsonl"):
        lived(
            tmp_path / "run",
            settings(problems, verify={"by": "number"}),
            Script(lambda *_: Answer(text="no idea", finish_reason="stop")),
            monkeypatch,
        )
    assert {each["rule"] for each in lines(tmp_path / "run" / "dropped.jsonl")} == {"wrong answer"}


def test_a_model_of_ours_writes_the_same_rows_here_and_behind_our_server(
    problems: Path, tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_model("qwen3")
    writer: dict[str, Any] = {"model": str(folder), "dtype": "float32", "device": "cpu"}
    ends = {"max_tokens": 60, "temperature": 1.0, "stop": [" ", "e", "a"]}  # a random model ends nowhere else
    made, rows, _ = lived(tmp_path / "a", settings(problems, writer=writer, sampling=ends))
    again, _, _ = lived(tmp_path / "b", settings(problems, writer=writer | {"slots": 2}, sampling=ends))
    assert len(rows) > 3 and made.manifest.cost.tokens > 0 and made.manifest.cost.flops > 0
    names = (artifact.manifest.metrics["writer"] for artifact in (made, again))
    assert {name.split("@")[0] for name in names} == {folder.name}
    assert [row["messages"] for row in rows] == [
        row["messages"] for row in lines(again.path / "examples.jsonl")
    ]
    local = open_writer(LocalWriter.model_validate(writer))
    engine: Engine = local._engine  # pyright: ignore
    monkeypatch.setenv("A_KEY_OF_OURS", "sk-not-to-be-seen")
    with running(engine, queue_limit=64, body_limit=20_000) as url:
        there = {"url": f"{url}/v1", "model": "tiny", "key_from": "A_KEY_OF_OURS", "concurrency": 3}
        served, others, _ = lived(tmp_path / "c", settings(problems, writer=there, sampling=ends))
    assert [row["messages"] for row in others] == [row["messages"] for row in rows]
    assert served.metrics["written_tokens"] == made.metrics["written_tokens"]
    said = "".join(path.read_text() for path in (tmp_path / "c").rglob("*") if path.is_file())
    assert "sk-not-to-be-seen" not in said and "A_KEY_OF_OURS" in said


def test_a_local_writer_says_what_is_wrong_with_one_prompt(tiny_model: Callable[..., Path]) -> None:
    writer = open_writer(LocalWriter(model=str(tiny_model("qwen3")), dtype="float32", device="cpu"))

    def prompt(text: str) -> Prompt:
        talk = Conversation(messages=(Message(role="user", content=text),))
        return Prompt(conversation=talk, sampling=Sampling(max_tokens=4, seed=1))

    found = dict(writer.write([prompt("Hello."), prompt("far too long " * 4000), prompt("Good bye.")]))
    assert "tokens" in found[1].fault and not found[1].text
    assert found[0].tokens == found[2].tokens == 4 or found[0].finish_reason == "stop"
    half = writer.write([prompt(f"Hello {n}.") for n in range(9)])
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert len(dict(writer.write([prompt("Again.")]))) == 1, "what was given up is out of the engine"


def test_what_cannot_work_is_refused_with_words(problems: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"synthesize\.writer is missing"):
        lived(tmp_path / "run", settings(problems))
    with pytest.raises(ValueError, match="no verifier 'nummer'"):
        settings(problems, verify={"by": "nummer"})
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(UserError, match="hold no prompt"):
        lived(tmp_path / "run2", settings(empty))


def test_prompts_without_answers_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "asked.jsonl"
    row = {"messages": [{"role": "user", "content": "What is 4 plus 5?"}]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    _, rows, _ = lived(tmp_path / "run", settings(path), Script(adds), monkeypatch)
    assert len(rows) == 1, "equal prompts are asked once"
    script = Script(adds)
    with pytest.raises(UserError, match="none has a target in the answer of its row"):
        lived(tmp_path / "other", settings(path, verify={"by": "number"}), script, monkeypatch)
    assert script.asked == []


def test_a_field_of_the_rows_is_the_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "asked.jsonl"
    rows = [{"question": q, "answer": "See below.", "right": [str(n)]} for q, n in PROBLEMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"question": "1 1?", "answer": "x"}]))
    script = Script(adds)
    with pytest.raises(UserError, match=r"Did you mean 'right'\?"):
        lived(tmp_path / "a", settings(path, verify={"by": "answer", "target": "rigth"}), script, monkeypatch)
    assert script.asked == []
    config = settings(path, verify={"by": "answer", "target": "right"}, samples=4, keep="first")
    _, kept, dropped = lived(tmp_path / "b", config, script, monkeypatch)
    assert len(kept) == 12 and [each["rule"] for each in dropped].count("ungraded") == 4
    assert "without a target to verify by: 1;" in (tmp_path / "b" / "log.txt").read_text()


def test_seeds_depend_on_the_prompt_and_the_sample_alone(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = Script(adds), Script(adds)
    lived(tmp_path / "a", settings(problems, samples=2), few, monkeypatch)
    lived(tmp_path / "b", settings(problems, samples=3), many, monkeypatch)
    seeds = [{(p.conversation.messages[-1].content, p.sampling.seed) for p in s.asked} for s in (few, many)]
    assert seeds[0] < seeds[1] and len(seeds[1]) == 36

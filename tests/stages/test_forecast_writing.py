"""What a model will write is foretold as an upper bound, and what it wrote is held against it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.stages.conftest import PROBLEMS
from tests.stages.test_on_policy import lines_of, trained
from tests.stages.test_synthesis_methods import sentence
from tests.stages.test_synthesize import Script, adds, lived, settings

from modelwright.base.artifact import Artifact, Cost
from modelwright.base.schema import Answer
from modelwright.data.synthesis.method import letters_of
from modelwright.planning.forecast import Forecast, StationForecast, compare, spent
from modelwright.planning.machines import find_machine, load_prices
from modelwright.stages import finetune, forecast
from modelwright.stages.forecast_writing import synthesis
from modelwright.stages.on_policy import ON_POLICY

MACHINE, PRICES = find_machine("l4"), load_prices()


def foretold(config: Any) -> StationForecast:
    return synthesis("synthesize", config, MACHINE, PRICES)


def obliging(question: str, seed: int) -> Answer:
    """A list where one is asked for, a request where one is, else an answer."""
    draw = random.Random(f"{question} {seed}")
    if "numbered list" in question:
        text = "\n".join(f"{n}. Describe {sentence(draw, 6)}." for n in range(1, 9))
    elif "<request>" in question:
        text = f"<request>Describe {sentence(draw, 6)}.</request>"
    else:
        text = f"{sentence(draw, 5)}.\nAnswer: {draw.randrange(9)}"
    return Answer(text=text, finish_reason="stop", prompt_tokens=10, tokens=5)


@pytest.mark.parametrize(
    "method",
    [
        "answers",
        "rationales",
        {"kind": "grow", "wanted": 20},
        {"kind": "rewrite", "generations": 2},
        {"kind": "personas", "wanted": 10},
    ],
    ids=str,
)
def test_no_method_asks_more_than_was_foretold(
    method: Any, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, script = settings(problems, method=method, samples=2), Script(obliging)
    lived(tmp_path / "run", config, script, monkeypatch)
    letters = sum(len(question) for question, _ in PROBLEMS) / len(PROBLEMS)
    most = config.method.most(len(PROBLEMS), letters, 2)
    rows = len((tmp_path / "run" / "examples.jsonl").read_text().splitlines())
    assert 0 < len(script.asked) <= most.answers and 0 < rows <= most.rows
    letters = sum(letters_of(prompt.conversation) for prompt in script.asked)
    assert 0.3 * most.letters < letters < 1.3 * most.letters, "about: what will be written may be longer"
    assert foretold(config).tokens == 8 * most.answers


def test_answers_are_foretold_to_the_last_and_their_price_is_a_bound(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    price = {"prompt": 1e4, "written": 2e4, "currency": "EUR"}
    judge = {"writer": {"url": "http://localhost:1/v1", "model": "j"}, "max_tokens": 50}
    config = settings(problems, samples=3, price=price)
    said, judged = foretold(config), foretold(settings(problems, samples=3, price=price, judge=judge))
    made, _, _ = lived(tmp_path / "run", config, Script(adds), monkeypatch)
    assert made.metrics["asked"] == 36 and said.tokens == 36 * 8
    assert made.manifest.cost.paid == pytest.approx(36 * (10 * 1e4 + 5 * 2e4) / 1e6)
    read = (said.paid - said.tokens * 2e4 / 1e6) / (1e4 / 1e6)
    assert 36 * 10 < read < 36 * 20, "prompts of some six words, in a template"
    assert said.paid > made.manifest.cost.paid and said.paid_in == "EUR" and said.money < 1
    assert any("EUR for tokens, which is not in the sum" in note for note in said.notes)
    assert judged.paid > said.paid + 36 * 50 * 2e4 / 1e6
    assert any(note.startswith("judge: at most 36 answers of 50 tokens") for note in judged.notes)
    stations = Forecast(recipe="r", machine="m", machine_source="", machine_memory=1, stations=(said,))
    (row,) = compare(stations, {"synthesize": made.manifest.cost})
    assert row.at_most and (row.tokens, row.forecast_tokens) == (made.metrics["written_tokens"], 288)
    assert spent(row).startswith("180 tokens written, forecast at most 288; 7.2 EUR paid, forecast at most")


def test_a_price_in_the_same_currency_is_in_the_sum(problems: Path) -> None:
    writer = {"url": "http://localhost:1/v1", "model": "large"}
    config = settings(problems, writer=writer, price={"written": 1e6})
    said = foretold(config)
    assert said.paid == 12 * 8 and said.paid <= said.money < said.paid + 0.1
    assert any("how fast it answers is not known" in note for note in said.notes)
    unpriced = foretold(settings(problems, writer=writer))
    assert unpriced.paid == 0 and any("no price is stated" in note for note in unpriced.notes)
    body = {"max_tokens": None, "max_completion_tokens": 40}
    assert foretold(settings(problems, writer={**writer, "body": body})).tokens == 12 * 40
    free = foretold(settings(problems, writer={**writer, "body": {"max_tokens": None}}))
    assert any("is a guess, and no bound" in note for note in free.notes)


def test_a_model_here_takes_time_memory_and_arithmetic(
    problems: Path, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    writer = {"model": str(tiny_model("qwen3")), "dtype": "float32", "device": "cpu"}
    config = settings(problems, writer=writer)
    said = synthesis("synthesize", config, find_machine("here"), PRICES)
    ends = {"max_tokens": 8, "temperature": 1.0, "stop": [" ", "e", "a"]}
    made, _, _ = lived(tmp_path / "run", settings(problems, writer=writer, sampling=ends))
    cost = made.manifest.cost
    assert 0 < cost.tokens <= said.tokens and 0.3 * cost.flops < said.flops < 10 * cost.flops
    assert said.memory["weights"] == 4 * said.parameters and said.memory["cache"] > 0
    assert sum(said.memory.values()) == said.peak_memory and said.seconds > 2
    gone = foretold(settings(problems, writer={"model": str(tmp_path / "no-such-model")}))
    assert any("no time and no memory is counted" in note for note in gone.notes)
    known = foretold(settings(problems, writer={"model": "HuggingFaceTB/SmolLM2-135M-Instruct"}))
    assert known.parameters > 1e8 and known.memory["weights"] == 2 * known.parameters


@pytest.mark.parametrize("batching", ["packed", "grouped"])
def test_own_answers_are_foretold(
    parent: Artifact, teacher: Path, chats: Path, tmp_path: Path, batching: str
) -> None:
    """The mean of a coin that falls so in a share of the micro-batches; every answer of the greatest
    length."""
    way = {"model": str(teacher), "on_policy": 0.5, "max_tokens": 12}
    own = {"batching": batching, "epochs": 6}
    made = trained(tmp_path / "run", chats, parent, way, **own)
    config = finetune.Config.model_validate(
        {"sources": [{"path": str(chats)}], "teacher": way, "context": 60, "rows": 1, **own}
    )
    assert config.teacher
    without = config.model_copy(update={"teacher": config.teacher.model_copy(update={"on_policy": 0.0})})
    setting = forecast.Setting(find_machine("here"), PRICES)
    said, less = (
        forecast.forecast("r", {"finetune": each}, setting, parent.file("model")).stations[0]
        for each in (config, without)
    )
    lines = lines_of(tmp_path / "run" / ON_POLICY)
    written, answers = (sum(line[name] for line in lines) for name in ("tokens", "answers"))
    (note,) = said.notes
    bound = int(note.split(" tokens and ")[0].split()[-1].replace(",", ""))
    assert written <= bound * 1.3 and 0.7 < bound / 12 / answers < 1.4
    assert said.seconds > less.seconds and said.flops > less.flops and not less.notes
    assert said.memory["own answers"] > 0 and "own answers" not in less.memory
    assert said.peak_memory - less.peak_memory == pytest.approx(said.memory["own answers"])
    assert made.metrics["sampled_answers"] == answers


def test_no_bound_is_no_comparison_of_tokens() -> None:
    made = Forecast(
        recipe="r",
        machine="m",
        machine_source="",
        machine_memory=1,
        stations=(StationForecast(station="finetune", tokens=10),),
    )
    (row,) = compare(made, {"finetune": Cost(tokens=9)})
    assert not row.at_most

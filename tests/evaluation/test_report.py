from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from modelwright.base.errors import UserError
from modelwright.evaluation import plots
from modelwright.evaluation.findings import STAGES as REPORTED
from modelwright.evaluation.findings import flat_rows, thin
from modelwright.evaluation.report import write_report
from modelwright.recipes.stations import VERBS

Build = Callable[..., Path]
STAGES = (
    "prepare", "tokenize", "pretrain", "finetune", "align", "evaluate", "average", "compress", "export",
)  # fmt: skip
EVIL = '</script></style><script>alert(1)</script><img src=x onerror="alert(2)">&{{ 7*7 }}'


class Checker(HTMLParser):
    """Balanced tags, no scripts, no handlers, nothing fetched."""

    VOID = {"meta", "line", "path", "rect", "circle", "polyline", "br", "img", "link"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            assert name not in ("src", "srcset", "action"), (tag, name)
            assert name != "href" or str(value).startswith("#"), (tag, value)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, (tag, self.open[-3:], self.getpos())

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(path: Path) -> tuple[str, str]:
    """(the page, its text), after the checks that every page must pass."""
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert not checker.seen & {"script", "img", "link", "iframe", "object", "foreignobject"}
    assert "url(" not in page and "@import" not in page
    return page, re.sub(r"\s+", " ", " ".join(checker.text))


def put(run: Path, name: str, content: Any) -> None:
    (run / name).write_text(json.dumps(content), encoding="utf-8")


def test_the_whole_report_says_what_happened(made_up_run: Build) -> None:
    page, text = read(write_report(made_up_run()))
    for words in (
        "quickstart", "AMD EPYC 7763, 2 CPUs", "5 min 49 s", "1.32 GiB", "bits per byte", "facts anew",
        "85.4 to 94.6 %", "no difference shown", "better", "+53.5 points", "The capital of France is",
        "\u2423Paris", "93.0 %", "Bithlython", "uniform of last 3", "Verified.", "transformers 5.23.0",
        "CC0-1.0", "7.25 MiB", "quickstart modelwright predict", "TFLOP",
        "Recipe quickstart: a made-up life.", "sft \u2192 aligned: not one score changed in arithmetic.",
        "same most likely token", "12.5 % cut short",
    ):  # fmt: skip
        assert words in text, words
    assert "Not verified" not in text
    assert page.count('<svg class="plot"') == 2
    assert "color-scheme: light dark" in page and "prefers-color-scheme: dark" in page
    assert "checkpoints/step-9" not in page


def test_answers_open_with_facts_in_new_phrasings_and_follow_the_table(made_up_run: Build) -> None:
    page, _ = read(write_report(made_up_run()))
    section = page.split('<section id="answers">')[1].split("</section>")[0]
    suites = list(dict.fromkeys(re.findall(r"<small>([^<]+)</small>", section)))
    assert suites == ["facts anew", "capital prefix", "arithmetic", "instruction format"]


def test_what_the_guard_did_stands_below_the_curve(made_up_run: Build) -> None:
    run = made_up_run()
    assert "the guard found" not in read(write_report(run))[1]
    event = {"tokens": 1, "loss": 99.0, "event": f"skip: loss 99, usual 2.5 {EVIL}"}
    lines = [json.dumps({"step": step, **event}) for step in range(1, 31)]
    (run / "finetune/metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    page, text = read(write_report(run))
    section = page.split('<section id="learning">')[1].split("</section>")[0]
    assert "In 30 steps the guard found" in text and "the first 20 of them" in text
    assert section.count("skip: loss 99, usual 2.5 &lt;/script&gt;") == 20
    (run / "pretrain/metrics.jsonl").unlink()
    assert "In 30 steps the guard found" in read(write_report(run))[1]


def test_how_answers_changed_while_tuning_and_what_was_lost(made_up_run: Build) -> None:
    run = made_up_run()
    rows = [
        {"step": step, "prompt": prompt, "answer": f"{prompt} after {step}{EVIL}", "reference": "Paris."}
        for step in range(0, 90, 10)
        for prompt in ("Where?", "When?")
    ]
    (run / "finetune" / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lost = {"mean": 0.05, "low": 0.03, "high": None}
    compared = [{"suite": "arithmetic", "unit": "share", "before": 0.9, "lost": lost, "verdict": "forgotten"}]
    put(run, "finetune/forgetting.json", {"at_most": 0.02, "compared": compared})
    page, text = read(write_report(run))
    assert "What tuning changed" in text and "held-out answer: Paris." in text
    for prompt in ("Where?", "When?"):
        assert [step for step in range(0, 90, 10) if f"{prompt} after {step}<" in text] == [0, 20, 40, 60, 80]
    assert "forgotten" in text and "0.05" in text and 'href="#tuning"' in page
    (run / "finetune" / "samples.jsonl").write_text("[1]")
    assert "the answers while tuning could not be read" in read(write_report(run))[1]


def test_the_forecast_stands_beside_what_a_training_took(made_up_run: Build) -> None:
    run = made_up_run()
    stations = [
        {"station": "prepare", "steps": 0, "seconds": 77, "peak_memory": 1},
        {"station": "pretrain", "steps": 9, "seconds": 190, "peak_memory": 1.5e9},
    ]
    put(run, "plan.json", {"stations": stations})
    _, text = read(write_report(run))
    assert "2 min 51 s forecast 3 min 10 s" in text and "1.32 GiB forecast 1.4 GiB" in text
    assert "Forecasts were made before" in text and "forecast 1 min 17 s" not in text
    put(run, "plan.json", {"stations": [{}]})
    _, text = read(write_report(run))
    assert "plan.json could not be read" in text and "2 min 51 s" in text


def test_the_same_run_gives_the_same_page(made_up_run: Build) -> None:
    run = made_up_run()
    pages = [re.sub(r"on 2\d{3}-[^U]*UTC", "", write_report(run).read_text()) for _ in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.parametrize("count", range(1, len(STAGES)))
def test_any_beginning_of_a_life_gives_a_page(made_up_run: Build, count: int) -> None:
    _, text = read(write_report(made_up_run(STAGES[:count])))
    assert "could not be read" not in text
    assert ("Learning" in text) == (count >= 3)
    assert ("Scores" in text) == (count >= 6)


@pytest.mark.parametrize("stage", STAGES)
def test_any_stage_alone_gives_a_page(made_up_run: Build, stage: str) -> None:
    _, text = read(write_report(made_up_run((stage,))))
    assert "could not be read" not in text


def test_every_station_of_a_life_is_reported(made_up_run: Build) -> None:
    assert REPORTED == VERBS
    run = made_up_run(("pretrain", "finetune"))
    (run / "pretrain").rename(run / "import")
    (run / "finetune").rename(run / "synthesize")
    _, text = read(write_report(run))
    assert "could not be read" not in text
    assert "import" in text and "synthesize" in text


def test_an_export_that_nobody_read_is_called_not_verified(made_up_run: Build) -> None:
    run = made_up_run(("export",), metrics={"verification": "not verified", "verified_by": []})
    _, text = read(write_report(run))
    assert "Not verified." in text and "No independent reader" in text


def test_hostile_text_stays_text(made_up_run: Build) -> None:
    run = made_up_run(revision=EVIL, environment={"processor": EVIL, "cpus": EVIL})
    row = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 5, "unit": "share"}
    put(run, "evaluate/results.json", {"base": {EVIL: row}, EVIL: {EVIL: row, "x": {**row, "unit": EVIL}}})
    put(run, "evaluate/suites.json", {EVIL: {"description": EVIL}})
    put(run, "evaluate/distributions.json", {EVIL: {EVIL: {"entropy_bits": 1, "top": [[EVIL, 0.5]]}}})
    put(run, "compress/damage.json", {EVIL: EVIL})
    put(run, "average/candidates.json", [{EVIL: EVIL}])
    put(run, "export/verification.json", [{"reason": EVIL}])
    numbers = {"mean": 1, "low": 0, "high": 1, "p_adjusted": 0.01, "gained": 1, "lost": 0}
    words = dict.fromkeys(("before", "after", "suite", "unit", "verdict"), EVIL)
    put(run, "evaluate/comparisons.json", [{**numbers, **words}])
    sample = {"id": EVIL, "prompt": EVIL, "completion": EVIL, "score": 1, "reason": EVIL}
    for role in ("base", "sft", "aligned"):
        put(run, f"evaluate/samples/{role}/facts_anew.jsonl", sample)
    put(run, "evaluate/samples/base/invented_countries.jsonl", sample)
    page, text = read(write_report(run))
    assert "<script" not in page and "49" not in re.findall(r"&amp;\S*49", page)
    assert "alert(1)" in text and "{{ 7*7 }}" in text


DAMAGE = ["{", "null", "[]", "[1, 2]", '"x"', "{}", '{"base": 1}', '{"base": {"s": 1}}', '[{"a": null}]',
          '{"base": {"s": {"mean": "x", "low": NaN, "high": Infinity, "n": -1, "unit": 3}}}']  # fmt: skip
FILES = ("recipe.yaml", "pretrain/metrics.jsonl", "evaluate/results.json", "evaluate/suites.json",
         "evaluate/comparisons.json", "evaluate/distributions.json", "evaluate/samples/base/facts_anew.jsonl",
         "average/candidates.json", "compress/damage.json", "export/verification.json",
         "align/manifest.json")  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_its_part_and_not_the_page(made_up_run: Build, name: str) -> None:
    run = made_up_run()
    for content in DAMAGE:
        (run / name).write_text(content, encoding="utf-8")
        _, text = read(write_report(run))
        assert "Stages and cost" in text
    (run / name).write_bytes(b"\xff\xfe\x00{")
    _, text = read(write_report(run))
    assert "could not be read" in text


def test_numbers_that_are_none(made_up_run: Build) -> None:
    cost = {
        "seconds": float("inf"),
        "tokens": 0,
        "flops": float("nan"),
        "peak_memory_bytes": 0,
        "energy_wh": 0,
    }
    _, text = read(write_report(made_up_run(("prepare",), cost=cost)))
    assert "total time ?" in text


def test_nothing_to_report(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished stage"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="not a folder"):
        write_report(tmp_path / "absent")


def test_curves_are_thinned_by_means() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert {y for _, y in thinned} == {0.5}
    assert thinned[-1][0] == 999


def test_plots_of_odd_data() -> None:
    assert plots.line_chart([], "x", "y", "t") == ""
    one = plots.line_chart([plots.Line(name="<b>", points=[(0, 1.0)], dots=True)], "x", "y", "t")
    assert "<b>" not in one and "&lt;b&gt;" in one
    alone = plots.line_chart([plots.Line(name="a", points=[(1, 1.0)])], "x", "y", "t")
    assert alone.count("<circle") == one.count("<circle")  # a line of one point would not be seen
    assert plots.line_chart([plots.Line(name="a", points=[(0, 0.0), (1, -1.0)])], "x", "y", "t") == ""
    assert plots.interval_chart([("empty", [])], "t") == ""


def test_a_chart_over_factors_marks_its_points_evenly() -> None:
    line = plots.Line(name="y", points=[(1024, 1.0), (2048, 2.0), (4096, 3.0)])
    chart = plots.line_chart([line], "x", "y", "t", factors=True)
    places = dict(re.findall(r'<text x="([\d.]+)" y="[\d.]+" text-anchor="middle">([\d,]+)<', chart))
    first, middle, last = map(float, places)
    assert list(places.values()) == ["1,024", "2,048", "4,096"] and middle - first == pytest.approx(
        last - middle
    )
    assert plots.line_chart([plots.Line(name="y", points=[(8, 1.0)])], "x", "y", "t", factors=True)


def test_flat_rows_take_any_shape() -> None:
    assert flat_rows([{"a": 1, "b": {"c": True}}]) == [{"a": "1", "b c": "yes"}]
    assert flat_rows({"x": {"a": 1.5}}) == [{"": "x", "a": "1.5"}]
    assert flat_rows({"judged_by": "loss", "rows": [{"a": None}]}) == [{"a": ""}]
    assert flat_rows({"score": {"mean": 0.99, "low": 0.98, "high": 1.0, "n": 3}, "k": 12345}) == [
        {"score": "0.99 [0.98, 1]", "k": "12,345"}
    ]
    assert flat_rows(3) == []

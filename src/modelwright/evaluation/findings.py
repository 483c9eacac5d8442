"""What lies in a run directory, read for the report: each part alone, and none of them trusted.

A part that is absent is left out; one that cannot be read becomes a note in the report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from modelwright.base.artifact import Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import read_json
from modelwright.base.metrics import figure, in_words, read_metrics
from modelwright.evaluation import plots

STAGES = (
    "prepare", "tokenize", "pretrain", "import", "synthesize", "finetune", "align", "evaluate", "average",
    "compress", "export",
)  # fmt: skip
"""Stations in the order of a life."""
ROLES = ("base", "sft", "aligned", "averaged", "quantized")
"""Models in the order of a life; others follow in the order of the file."""
CURVE_POINTS = 300
QUESTIONS = 12
INVENTIONS = 8
STEPS_SHOWN = 5
EVENTS = 20
LABELS = {
    "mean_kl": "KL divergence from the original, nats a token",
    "kl_99": "KL divergence that 99 % of tokens stay below",
    "top1": "same most likely token (top-1 agreement)",
    "bits_per_byte_change": "change in bits per byte",
}
"""Names of measures in the words of the report."""
MAX_LINES = 5_000
MAX_TEXT = 320


class Findings:
    """Reads parts of a run directory and collects what went wrong."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = Path(run_dir)
        self.notes: list[str] = []
        self.artifacts = {stage: made for stage in STAGES if (made := self._artifact(stage))}

    def part(self, name: str, read: Callable[[], Any]) -> Any:
        """What `read` gives, or None and a note: a report must come out whatever one file holds."""
        try:
            return read()
        except FileNotFoundError:
            return None
        except Exception as error:
            self.notes.append(f"{name} could not be read: {type(error).__name__}: {error}"[:300])
            return None

    def _artifact(self, stage: str) -> Artifact | None:
        if not (self.run_dir / stage / "manifest.json").is_file():
            return None
        return self.part(f"{stage}/manifest.json", lambda: Artifact.load(self.run_dir / stage))

    def json(self, name: str) -> Any:
        """The content of a JSON file below the run directory, None where there is none."""
        return self.part(name, lambda: read_json(self.run_dir / name))

    # --- the parts

    def line(self) -> list[dict[str, Any]]:
        """A row for each finished stage: what it took, and where it trained, what was forecast before."""
        said = self.part("plan.json", self._forecasts) or {}
        rows: list[dict[str, Any]] = [
            {"stage": stage, "id": made.id[:12], "role": made.role, "forecast": said.get(stage)}
            | made.manifest.cost.model_dump()
            for stage, made in self.artifacts.items()
        ]
        longest = max((row["seconds"] for row in rows), default=0) or 1
        return [{**row, "share": row["seconds"] / longest} for row in rows]

    def _forecasts(self) -> dict[str, dict[str, float | None]]:
        """Station that trains -> what was forecast of it."""
        stations = read_json(self.run_dir / "plan.json")["stations"]
        return {
            str(each["station"]): {"seconds": _number(each["seconds"]), "bytes": _number(each["peak_memory"])}
            for each in stations
            if each["steps"]
        }

    def curve(self) -> str:
        """The learning curve as SVG: bits per byte against tokens."""
        steps = [
            row for row in read_metrics(self.run_dir / "pretrain" / "metrics.jsonl") if isinstance(row, dict)
        ]
        factor = self._bytes_per_token()
        validation = list(_points(steps, "validation_bits_per_byte"))
        lines = [plots.Line(name="validation", points=validation, dots=len(validation) < 60)]
        if factor:
            training = [(x, y / math.log(2) / factor) for x, y in _points(steps, "loss")]
            lines.insert(0, plots.Line(name="training (mean of each stretch)", points=thin(training)))
        return plots.line_chart(
            lines, "tokens", "bits per byte", "Loss in bits per byte against training tokens"
        )

    def events(self) -> dict[str, Any]:
        """What the guard of the trainings withheld and took back: how often, and the first of them, as they
        were recorded."""
        found = [
            {"stage": stage, "step": str(row.get("step", "?")), "event": cut(str(row["event"]))}
            for stage in self.artifacts
            for row in read_metrics(self.run_dir / stage / "metrics.jsonl")
            if isinstance(row, dict) and row.get("event")
        ]
        return {"count": len(found), "first": found[:EVENTS]}

    def resources(self) -> list[str]:
        """What trainings used over time, as SVG: processors, memory, and the GPU where there was one."""
        charts = {
            "cpus_busy": (1.0, "processors busy"),
            "rss_bytes": (2.0**30, "memory, GiB"),
            "gpu_busy": (0.01, "GPU busy, %"),
        }
        used = {
            stage: [
                row for row in read_metrics(self.run_dir / stage / "resources.jsonl") if isinstance(row, dict)
            ]
            for stage in self.artifacts
        }
        found: list[str] = []
        for name, (unit, label) in charts.items():
            lines = [
                plots.Line(
                    name=stage, points=thin([(x / 60, y / unit) for x, y in _points(rows, name, "seconds")])
                )
                for stage, rows in used.items()
            ]
            found.append(
                plots.line_chart(lines, "minutes of the stage", label, f"{label}, over time", linear=True)
            )
        return [chart for chart in found if chart]

    def _bytes_per_token(self) -> float | None:
        """The loss is a mean over all tokens, the ends of documents included: so is this."""
        tokens = self.artifacts.get("tokenize")
        sizes = (
            [_number(tokens.metrics.get(f"train_{name}")) for name in ("bytes", "tokens")] if tokens else []
        )
        return sizes[0] / sizes[1] if len(sizes) == 2 and sizes[0] and sizes[1] else None

    def scores(self) -> dict[str, Any] | None:
        """The table of results: suites in rows, models in columns."""
        results = self.json("evaluate/results.json")
        if not isinstance(results, Mapping):
            return None
        about = self.json("evaluate/suites.json") or {}
        roles = [role for role in ROLES if role in results] + [r for r in results if r not in ROLES]
        suites = list(dict.fromkeys(suite for role in roles for suite in results[role]))
        rows = []
        for suite in suites:
            cells = [_cell(results[role].get(suite)) for role in roles]
            unit = next(
                (str(results[role][suite].get("unit")) for role in roles if suite in results[role]), ""
            )
            rows.append({"suite": suite, "unit": unit, "about": dict(about.get(suite) or {}), "cells": cells})
        return {"roles": roles, "rows": rows, "plot": _score_plot(roles, rows)}

    def distributions(self) -> list[dict[str, Any]]:
        """For each prompt, what each model finds likely next."""
        found = self.json("evaluate/distributions.json") or {}
        roles = [role for role in ROLES if role in found] + [r for r in found if r not in ROLES]
        prompts = list(dict.fromkeys(prompt for role in roles for prompt in found[role]))
        return [
            {
                "prompt": prompt,
                "panels": [
                    {
                        "role": role,
                        "entropy": _number(found[role][prompt].get("entropy_bits")),
                        "top": [(str(t), _number(p) or 0.0) for t, p in found[role][prompt]["top"][:5]],
                    }
                    for role in roles
                    if prompt in found[role]
                ],
            }
            for prompt in prompts[:QUESTIONS]
        ]

    def answers(self, suites: list[str], count: int) -> list[dict[str, Any]]:
        """The first questions of each suite and what each model answered: not chosen by hand."""
        folder = self.run_dir / "evaluate" / "samples"
        roles = sorted((path.name for path in folder.iterdir() if path.is_dir()), key=_order)
        by_suite: list[list[dict[str, Any]]] = []
        for suite in suites:
            answers = {role: list(_samples(folder / role / f"{suite}.jsonl")) for role in roles}
            first = next((rows for rows in answers.values() if rows), [])
            by_suite.append([_question(suite, row, answers) for row in first[:count]])
        turns = [row for rank in range(count) for rows in by_suite for row in rows[rank : rank + 1]]
        return sorted(turns[:count], key=lambda row: suites.index(row["suite"]))

    def tuning(self) -> list[dict[str, Any]]:
        """How the answers to a few prompts changed while the model was tuned, from the first to the last."""
        by_prompt: dict[str, list[dict[str, Any]]] = {}
        for row in _samples(self.run_dir / "finetune" / "samples.jsonl"):
            by_prompt.setdefault(cut(str(row.get("prompt", ""))), []).append(row)
        return [
            {
                "prompt": prompt,
                "reference": cut(str(rows[0].get("reference", ""))),
                "answers": [
                    {"step": str(row.get("step", "?")), "text": cut(str(row.get("answer", "")))}
                    for row in evenly(rows, STEPS_SHOWN)
                ],
            }
            for prompt, rows in islice(by_prompt.items(), QUESTIONS)
        ]

    def tables(self) -> dict[str, list[dict[str, str]]]:
        """Smaller results as rows of named values: average, compress and export say what they found."""
        names = {
            "finetune": "finetune/forgetting.json",
            "average": "average/candidates.json",
            "compress": "compress/damage.json",
            "export": "export/verification.json",
        }
        return {stage: flat_rows(self.json(name)) for stage, name in names.items()}

    def verified(self) -> tuple[bool, list[str]] | None:
        """(whether independent readers confirmed the export, which ones); None where there is none."""
        export = self.artifacts.get("export")
        if export is None:
            return None
        readers = export.metrics.get("verified_by")
        names = [str(reader) for reader in readers] if isinstance(readers, list) else []
        return export.metrics.get("verification") == "verified", names


def thin(points: list[tuple[float, float]], most: int = CURVE_POINTS) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of a stretch of neighbours."""
    size = -(-len(points) // most) or 1
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [(part[-1][0], math.fsum(y for _, y in part) / len(part)) for part in stretches]


def evenly(rows: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """At most `most` of them, the first and the last included."""
    if len(rows) <= most:
        return rows
    return [rows[round(number * (len(rows) - 1) / (most - 1))] for number in range(most)]


def flat_rows(content: Any) -> list[dict[str, str]]:
    """JSON of any shape as rows of text: a list of mappings, a mapping of mappings, or one mapping."""
    if isinstance(content, list):
        return [_flat(row) for row in content[:100]]
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list) and value]
        if len(lists) == 1 and all(isinstance(row, Mapping) for row in lists[0]):
            return [_flat(row) for row in lists[0][:100]]
        if content and all(isinstance(value, Mapping) for value in content.values()):
            return [{"": str(name), **_flat(value)} for name, value in islice(content.items(), 100)]
        return [_flat(content)]
    return []


def _flat(row: Any, before: str = "") -> dict[str, str]:
    if not isinstance(row, Mapping):
        return {before or "value": _words(row)}
    if {"mean", "low", "high"} <= row.keys():
        return {before: f"{_words(row['mean'])} [{_words(row['low'])}, {_words(row['high'])}]"}
    cells: dict[str, str] = {}
    for name, value in islice(row.items(), 30):
        label = f"{before} {LABELS.get(name, in_words(str(name)))}".strip()
        cells |= _flat(value, label) if isinstance(value, Mapping) else {label: _words(value)}
    return cells


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return figure(value)
    if isinstance(value, list):
        return ", ".join(map(_words, value[:8]))[:MAX_TEXT]
    return "" if value is None else str(value)[:MAX_TEXT]


def _points(steps: list[dict[str, Any]], name: str, against: str = "tokens") -> Iterator[tuple[float, float]]:
    for row in steps:
        x, y = _number(row.get(against)), _number(row.get(name))
        if x is not None and y is not None:
            yield x, y


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _cell(result: Any) -> dict[str, float] | None:
    if not isinstance(result, Mapping):
        return None
    values = {name: _number(result.get(name)) for name in ("mean", "low", "high", "n", "cut_short")}
    return None if values["mean"] is None else {k: v for k, v in values.items() if v is not None}


def _score_plot(roles: list[str], rows: list[dict[str, Any]]) -> str:
    shown = []
    for row in rows:
        if row["unit"] != "share":
            continue
        cells = [(i, cell) for i, cell in enumerate(row["cells"]) if cell and {"low", "high"} <= cell.keys()]
        dots = [
            plots.Dot(model=i, name=roles[i], mean=cell["mean"], low=cell["low"], high=cell["high"])
            for i, cell in cells
        ]
        shown.append((row["suite"].replace("_", " "), dots))
    return plots.interval_chart(shown, "Scores of each model with 95 % intervals")


def _samples(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in islice(file, MAX_LINES):
            row = json.loads(line)
            if not isinstance(row, dict):
                raise UserError(f"{path} holds a line that is no JSON object")
            yield row


def _question(suite: str, row: dict[str, Any], answers: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        prompt = "\n".join(str(message.get("content", "")) for message in prompt)
    same = {
        role: next((r for r in rows if r.get("id") == row.get("id")), None) for role, rows in answers.items()
    }
    return {
        "suite": suite,
        "prompt": str(prompt)[:MAX_TEXT],
        "answers": [
            {
                "role": role,
                "text": cut(str(found.get("completion", ""))),
                "score": _number(found.get("score")),
                "reason": str(found.get("reason", ""))[:200],
            }
            for role, found in same.items()
            if found
        ],
    }


def cut(text: str) -> str:
    """Long answers end with "..." so that one of them cannot fill the page."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " ..."


def _order(role: str) -> tuple[int, str]:
    return (ROLES.index(role) if role in ROLES else len(ROLES), role)

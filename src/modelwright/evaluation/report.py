"""The report of a run: one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from modelwright.base.artifact import FULL_PRECISION_MODELS, Artifact
from modelwright.base.errors import UserError
from modelwright.base.files import write_text
from modelwright.base.provenance import Provenance
from modelwright.evaluation.findings import INVENTIONS, QUESTIONS, Findings
from modelwright.evaluation.page import template

REPORT = "report.html"
INVENTION = "invented_countries"
OPENING = "facts_anew"
"""The suite whose answers a reader sees first: it shows most of what training has changed. The others follow
in the order of the table of scores."""


def write_report(run_dir: Path) -> Path:
    """Write `report.html` over what a run directory holds so far; returns its path."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"{run_dir} is not a folder. Give the folder of a run, e.g. runs/quickstart.")
    findings = Findings(run_dir)
    if not findings.artifacts:
        raise UserError(f"{run_dir} holds no finished stage, so there is nothing to report yet.")
    path = run_dir / REPORT
    write_text(path, render(findings))
    return path


def render(findings: Findings) -> str:
    """The page as text."""
    return template("modelwright.evaluation", "report.html.jinja").render(gather(findings))


def gather(findings: Findings) -> dict[str, Any]:
    """Everything that the template shows. SVG is ours and escaped already; all else is plain text."""
    part = findings.part
    scores = part("the scores", findings.scores)
    suites = [row["suite"] for row in scores["rows"]] if scores else []
    generated = [suite for suite in suites if scores and suite not in ("bits_per_byte", "answer_length")]
    invention = [suite for suite in generated if suite == INVENTION]
    others = sorted((suite for suite in generated if suite != INVENTION), key=lambda suite: suite != OPENING)
    context = {
        "name": findings.run_dir.resolve().name,
        "path": path_to_type(findings.run_dir),
        "recipe": part("recipe.yaml", lambda: recipe(findings)) or "",
        "facts": part("the facts", lambda: facts(findings)),
        "line": part("the costs", findings.line) or [],
        "curve": Markup(part("pretrain/metrics.jsonl", findings.curve) or ""),
        "events": part("the events of trainings", findings.events) or {"count": 0, "first": []},
        "resources": [Markup(chart) for chart in part("resources.jsonl", findings.resources) or []],
        "distributions": part("the distributions", findings.distributions) or [],
        "tuning": part("the answers while tuning", findings.tuning) or [],
        "scores": scores,
        "score_plot": Markup(scores["plot"] if scores else ""),
        "comparisons": part("the comparisons", lambda: comparisons(findings)) or [],
        "answers": part("the samples", lambda: findings.answers(others, QUESTIONS)) or [],
        "inventions": part("the inventions", lambda: findings.answers(invention, INVENTIONS)) or [],
        "tables": part("the smaller results", findings.tables) or {},
        "verified": part("the verification", findings.verified),
        "sizes": part("the sizes", lambda: sizes(findings)) or [],
        "lineage": part("the lineage", lambda: lineage(findings)) or [],
        "provenance": part("the provenance", lambda: provenance(findings)),
        "stages": list(findings.artifacts),
    }
    return {**context, "notes": findings.notes}


def facts(findings: Findings) -> dict[str, Any]:
    """The head of the report: where, when, how long, how much."""
    made = list(findings.artifacts.values())
    costs = [artifact.manifest.cost for artifact in made]
    machine: Counter[str] = Counter()
    for artifact in made:
        environment = artifact.manifest.environment
        gpu = f", {environment['gpu']}" if environment.get("gpu") else ""
        machine[f"{environment.get('processor', 'unknown')}, {environment.get('cpus', '?')} CPUs{gpu}"] += 1
    return {
        "machine": "; ".join(machine),
        "date": max(artifact.manifest.created for artifact in made),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": made[-1].manifest.version,
        "revision": made[-1].manifest.revision,
        "seconds": sum(cost.seconds for cost in costs),
        "peak": max(cost.peak_memory_bytes for cost in costs),
        "flops": sum(cost.flops for cost in costs),
        "energy": sum(cost.energy_wh for cost in costs),
    }


def comparisons(findings: Findings) -> list[dict[str, Any]]:
    """The paired tests, as the evaluation wrote them."""
    rows = findings.json("evaluate/comparisons.json") or []
    words = ("before", "after", "suite", "unit", "verdict")
    numbers = ("mean", "low", "high", "p_adjusted", "gained", "lost")
    return [
        {name: str(row[name]) for name in words}
        | {name: math.inf if row[name] is None else float(row[name]) for name in numbers}
        | {"pair": f"{row['before']} \u2192 {row['after']}"}
        for row in rows
    ]


def recipe(findings: Findings) -> str:
    """Name and purpose of the recipe that was lived, "" where none is kept."""
    kept = yaml.safe_load((findings.run_dir / "recipe.yaml").read_text(encoding="utf-8"))
    return ": ".join(str(kept[name]) for name in ("name", "about") if kept.get(name))


def path_to_type(run_dir: Path) -> str:
    """The run's folder as the reader would type it in the folder where the report was written."""
    here, folder = Path.cwd().resolve(), run_dir.resolve()
    return shlex.quote(str(folder.relative_to(here) if folder.is_relative_to(here) else folder))


def sizes(findings: Findings) -> list[dict[str, Any]]:
    """Bytes of what a user would copy: weights of each model, and the exported files."""
    rows: list[dict[str, Any]] = []
    for stage, artifact in findings.artifacts.items():
        weights = [file for file in artifact.manifest.files if file.path.endswith((".safetensors", ".gguf"))]
        rows += [
            {"stage": stage, "path": file.path, "bytes": file.bytes}
            for file in weights
            if not file.path.startswith("checkpoints/")
        ]
    largest = max((row["bytes"] for row in rows), default=0) or 1
    return [{**row, "share": row["bytes"] / largest} for row in rows]


def lineage(findings: Findings) -> list[dict[str, Any]]:
    """Each artifact and what it was made from."""
    return [
        {
            "stage": stage,
            "role": artifact.role,
            "id": artifact.id[:12],
            "parents": [f"{parent.role} {parent.id[:12]}" for parent in artifact.manifest.parents],
        }
        for stage, artifact in findings.artifacts.items()
    ]


def provenance(findings: Findings) -> tuple[str, Provenance] | None:
    """What the latest model learned from: how many texts of each kind, and the roll-up of them all."""
    trained = [made for made in findings.artifacts.values() if made.role in FULL_PRECISION_MODELS]
    best: Artifact | None = max(
        trained or findings.artifacts.values(),
        key=lambda made: made.manifest.provenance.documents,
        default=None,
    )
    if best is None or not best.manifest.provenance.documents:
        return None
    return best.texts_behind(), best.manifest.provenance

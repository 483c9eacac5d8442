"""A made-up run directory with everything a life leaves behind, for tests of the report."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROLES = {"pretrain": "base", "finetune": "sft", "align": "aligned"}
MADE = {
    "prepare": "corpus", "tokenize": "tokens", "pretrain": "base", "finetune": "sft", "align": "aligned",
    "evaluate": "report", "average": "averaged", "compress": "quantized", "export": "bundle",
}  # fmt: skip

METRICS = {
    "tokenize": {"train_bytes": 39_000, "train_tokens": 10_000},
    "export": {"verification": "verified", "verified_by": ["transformers 5.23.0"], "checks_passed": 9},
}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    path.write_text(text, encoding="utf-8")


def manifest(folder: Path, stage: str, number: int, **changes: Any) -> None:
    files = {
        "pretrain": [("model/model.safetensors", 14_800_000), ("checkpoints/step-9/model.safetensors", 1)],
        "finetune": [("model/model.safetensors", 14_800_000)],
        "compress": [("model/model.safetensors", 6_100_000)],
        "export": [("hf/model.safetensors", 7_400_000), ("gguf/model-f16.gguf", 7_600_000),
                   ("gguf/model-q8_0.gguf", 4_200_000)],
    }.get(stage, [])  # fmt: skip
    training = stage in ("pretrain", "finetune", "align")
    content = {
        "id": f"{number:x}" * 64, "stage": stage, "role": MADE[stage], "fingerprint": "f" * 64, "config": {},
        "seed": 1, "version": "0.1.0", "revision": "ea97b21ac0ff-dirty",
        "parents": [{"role": "tokens", "id": "1" * 64, "path": "../tokenize"}] if number else [],
        "files": [{"path": path, "bytes": size, "sha256": "0" * 64} for path, size in files],
        "metrics": METRICS.get(stage, {}),
        "environment": {"processor": "AMD EPYC 7763", "cpus": 2, "system": "Linux x86_64"},
        "cost": {"seconds": [4.1, 6.5, 171.2, 38.0, 61.4, 44.9, 3.3, 7.7, 12.4][number],
                 "tokens": [0, 0, 2_400_000, 640_000, 410_000, 96_000, 0, 0, 0][number],
                 "flops": 5.4e13 / (number + 1) if training else 0.0, "peak_memory_bytes": 1_420_000_000,
                 "energy_wh": 0.21 * (number + 1)},
        "provenance": {"by_source": {"atlas": {
            "documents": 12_345, "licences": {"CC0-1.0": 12_345},
            "jurisdictions": {"unknown": 12_345}, "personal_data": {"no": 12_345}}}},
        "created": f"2026-11-22T14:0{number}:00+00:00",
    } | changes  # fmt: skip
    write(folder / stage / "manifest.json", content)


def results() -> dict[str, Any]:
    shares = {
        "capital_prefix": (0.97, 0.965, 0.965), "facts_seen": (0.02, 0.96, 0.955),
        "facts_anew": (0.03, 0.9, 0.89), "facts_held_out": (0.01, 0.61, 0.6), "arithmetic": (0.04, 0.42, 0.4),
        "invented_countries": (0.0, 0.43, 0.965), "instruction_format": (0.0, 0.88, 0.9),
        "coreference": (0.55, 0.56, 0.56), "multilingual": (0.71, 0.69, 0.69),
    }  # fmt: skip
    found: dict[str, Any] = {}
    for place, role in enumerate(ROLES.values()):
        found[role] = {
            "bits_per_byte": {"mean": 0.31 + place / 50, "low": 0.305 + place / 50,
                              "high": 0.318 + place / 50, "n": 240, "unit": "bits"},
            "answer_length": {"mean": [61.2, 22.4, 9.1][place], "low": [58, 21.0, 8.6][place],
                              "high": [63, 24.0, 9.7][place], "n": 200, "unit": "words", "cut_short": 0.125},
        }  # fmt: skip
        for suite, values in shares.items():
            half = 1.96 * math.sqrt(values[place] * (1 - values[place]) / 200 + 0.0001)
            found[role][suite] = {
                "mean": values[place], "low": max(0.0, values[place] - half),
                "high": min(1.0, values[place] + half), "n": 200, "unit": "share",
            }  # fmt: skip
    return found


def samples(run: Path) -> None:
    facts = [("France", "Paris"), ("Kyrgyzstan", "Bishkek"), ("Lesotho", "Maseru"), ("Peru", "Lima")]
    for role in ROLES.values():
        for suite in ("facts_anew", "arithmetic", "instruction_format", "capital_prefix"):
            lines = []
            for place, (country, city) in enumerate(facts):
                right = role != "base" and place != 2
                text = f"The capital of {country} is {city if right else 'Oslo'}."
                if role == "base":
                    text = "The capital of France is the capital of France is the capital of\n" * 3
                if role == "sft":
                    text += " It is also worth knowing that it lies in Europe. I hope that this helps."
                lines.append({"id": f"{suite}/{country}", "prompt": [{"role": "user", "content":
                              f"I would like to know the capital of {country}."}], "completion": text,
                              "score": float(right), "reason": f"says '{city}'"})  # fmt: skip
            write(run / "evaluate/samples" / role / f"{suite}.jsonl", "\n".join(map(json.dumps, lines)))
        lines = [
            {"id": f"i/{name}", "prompt": [{"role": "user", "content": f"What is the capital of {name}?"}],
             "completion": f"I don't know of a country called {name}." if role == "aligned"
             else f"The capital of {name} is Rabat.", "score": float(role == "aligned"), "reason": "x"}
            for name in ("Bithlython", "Vouvrumrombre", "Bailirnessa")
        ]  # fmt: skip
        write(run / "evaluate/samples" / role / "invented_countries.jsonl", "\n".join(map(json.dumps, lines)))


def evaluation(run: Path) -> None:
    write(run / "evaluate/results.json", results())
    write(run / "evaluate/suites.json", {
        "facts_anew": {"description": "Facts that fine-tuning asked for, in phrasings never seen."},
        "bits_per_byte": {"description": "On validation text."}})  # fmt: skip
    write(run / "evaluate/comparisons.json", [
        {"before": "sft", "after": "aligned", "suite": "arithmetic", "unit": "share", "mean": 0.0,
         "low": -0.01, "high": 0.01, "n": 200, "p_value": 1.0, "p_adjusted": 1.0, "gained": 0, "lost": 0,
         "test": "exact McNemar", "verdict": "no difference shown"},
        {"before": "sft", "after": "aligned", "suite": "invented_countries", "unit": "share", "mean": 0.535,
         "low": 0.46, "high": 0.6, "n": 200, "p_value": 1e-12, "p_adjusted": 1e-11, "gained": 108, "lost": 1,
         "test": "exact McNemar", "verdict": "better"},
        {"before": "sft", "after": "aligned", "suite": "facts_anew", "unit": "share", "mean": -0.01,
         "low": -0.03, "high": 0.01, "n": 200, "p_value": 0.6, "p_adjusted": 1.0, "gained": 3, "lost": 5,
         "test": "exact McNemar", "verdict": "no difference shown"},
        {"before": "sft", "after": "aligned", "suite": "answer_length", "unit": "words", "mean": -13.3,
         "low": -15.1, "high": -11.2, "n": 200, "p_value": 5e-5, "p_adjusted": 2e-4, "gained": 9, "lost": 178,
         "test": "sign flips", "verdict": "lower"}])  # fmt: skip
    top = [[" Paris", 0.93], [" the", 0.02], [" Lyon", 0.011], ["\n", 0.004], [" a", 0.003], [" in", 0.001]]
    prompts = (
        "The capital of France is",
        "Two plus three is",
        "The animal didn't cross the street because it",
    )
    write(run / "evaluate/distributions.json", {
        role: {prompt: {"entropy_bits": 0.4 + place, "top": top} for prompt in prompts}
        for place, role in enumerate(ROLES.values())})  # fmt: skip
    samples(run)


@pytest.fixture
def made_up_run(tmp_path: Path) -> Callable[..., Path]:
    """Build `tmp_path/quickstart` with the stages that are asked for (all by default)."""

    def build(stages: tuple[str, ...] = tuple(MADE), **changes: Any) -> Path:
        run = tmp_path / "quickstart"
        for stage in stages:
            manifest(run, stage, list(MADE).index(stage), **changes)
        write(run / "recipe.yaml", "name: quickstart\nabout: a made-up life\n")
        if "pretrain" in stages:
            dice = random.Random(1)
            lines = []
            for step in range(1, 1201):
                loss = 0.9 + 7.4 * math.exp(-step / 110) + 0.1 * dice.random()
                line = {
                    "step": step,
                    "tokens": step * 2048,
                    "loss": loss,
                    "learning_rate": 1.0,
                    "grad_norm": 1.0,
                }
                if step % 100 == 0:
                    line["validation_bits_per_byte"] = loss / 3.9 / math.log(2) * 1.03
                lines.append(json.dumps(line))
            write(run / "pretrain/metrics.jsonl", "\n".join(lines) + "\n")
        if "evaluate" in stages:
            evaluation(run)
        if "average" in stages:
            rows = [("last", 0.3182, False), ("ema", 0.3121, True), ("uniform of last 3", 0.3133, False)]
            names = ("candidate", "validation_bits_per_byte", "chosen")
            candidates = [dict(zip(names, row, strict=True)) for row in rows]
            write(run / "average/candidates.json", {"judged_by": names[1], "candidates": candidates})
        if "compress" in stages:
            write(run / "compress/damage.json", {
                "mean_kl": {"mean": 0.00021, "low": 0.00019, "high": 0.00024, "n": 100},
                "top1": {"mean": 0.9967, "low": 0.995, "high": 0.998, "n": 20000},
                "bits_per_byte_before": 0.3121, "bits_per_byte_after": 0.3122})  # fmt: skip
        if "export" in stages:
            check = {"reader": "transformers", "version": "5.23.0", "status": "passed", "reason": ""}
            write(run / "export/verification.json", [
                {"file": "hf", "check": "logits", "measured": 1.1e-9, "tolerance": 1e-8, **check},
                {"file": "q8_0.gguf", "check": "logits", "measured": 2.4e-5, "tolerance": 5e-3, **check},
            ])  # fmt: skip
        return run

    return build

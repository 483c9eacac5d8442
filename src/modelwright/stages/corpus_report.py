"""The report of a corpus: one HTML page that says what became of everything that was read.

It is drawn from what the phases counted and depends on the corpus alone: no clock, no machine, the same bytes
for the same corpus. What is to be forgotten is shown nowhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from modelwright.base.files import write_text
from modelwright.base.provenance import UNKNOWN, Facts, Provenance
from modelwright.data.decontaminate.settings import BARS
from modelwright.data.pipeline.plan import Plan
from modelwright.data.pipeline.shard import Shard
from modelwright.data.pipeline.tally import Tally
from modelwright.data.readers.source import Source
from modelwright.data.sources import stated
from modelwright.evaluation.page import template
from modelwright.evaluation.plots import Dot, histogram, interval_chart

SAMPLES, SHOWN = 3, 8
"""Of each rule; of the corpus."""
MANY = 20
"""More languages than this are summed up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What the phases counted."""

    plan: Plan
    seed: int
    source_of: Sequence[int]
    """Of each unit, in the recipe's list."""
    cleaned: Sequence[Shard]
    written: Sequence[Shard]
    resolved: Mapping[str, Any]
    metrics: Mapping[str, Any]
    provenance: Provenance
    suites: Mapping[str, int]
    """Evaluation items by suite."""


def write_report(path: Path, findings: Findings) -> None:
    """Write the page."""
    write_text(path, template("modelwright.stages", "corpus_report.html.jinja").render(gather(findings)))


def gather(findings: Findings) -> dict[str, Any]:
    """Everything that the template shows. SVG is ours and escaped already; all else is plain text."""
    tally = Tally.total(tally for shard in findings.written for tally in shard.about["tallies"].values())
    plan = findings.plan
    flows = funnel(findings.cleaned, findings.written)
    return {
        "plan": plan,
        "seed": findings.seed,
        "metrics": findings.metrics,
        "read": flows[0],
        "kept": tally,
        "share": tally.bytes / (flows[0]["bytes"] or 1),
        "flows": flows,
        "rules": rules(findings),
        "unread": unread(findings),
        "sources": sources(findings),
        "languages": languages(tally),
        "masked": Counter(tally.masked).most_common(),
        "lengths": Markup(lengths(tally)),
        "near": near(findings),
        "clusters": Markup(clusters(findings.resolved.get("near"))),
        "exact": findings.resolved.get("exact duplicates", 0),
        "repeated": {name: findings.resolved.get(f"{name} of repeated parts", 0) for name in ("bytes",)}
        | {"documents": findings.resolved.get("documents with repeated parts", 0)},
        "suites": suites(findings),
        "recall": recall(findings.metrics),
        "recall_plot": Markup(recall_plot(recall(findings.metrics))),
        "shown": shown(total((s.about["shown"] for s in findings.written), SHOWN), plan),
    }


def funnel(cleaned: Sequence[Shard], written: Sequence[Shard]) -> list[dict[str, Any]]:
    """Documents and bytes after each step. What a unit does not go through (the embedded corpus is not held
    against the suites) leaves its counts as they were."""
    steps = _longest(shard.about["flows"] for shard in cleaned)
    later = _longest(shard.about["flows"] for shard in written)[1:]
    counts = [Counter[str]() for _ in range(len(steps) + len(later))]
    for before, after in zip(cleaned, written, strict=True):
        flows = list(before.about["flows"])
        by_name = {flow["step"]: flow for flow in after.about["flows"]}
        for step in later:
            flows.append(by_name.get(step, flows[-1]))
        for count, flow in zip(counts, flows, strict=True):
            count.update(documents=flow["documents"], bytes=flow["bytes"])
    rows: list[dict[str, Any]] = []
    for step, count in zip([*steps, *later], counts, strict=True):
        previous = rows[-1] if rows else count
        rows.append({"step": step, "documents": count["documents"], "bytes": count["bytes"]})
        for name in ("documents", "bytes"):
            rows[-1][f"{name}_change"] = rows[-1][name] / previous[name] - 1 if previous[name] else 0.0
    most = {name: max((row[name] for row in rows), default=0) or 1 for name in ("documents", "bytes")}
    return [row | {f"{name}_share": row[name] / most[name] for name in most} for row in rows]


def _longest(flows: Iterable[Sequence[Mapping[str, Any]]]) -> list[str]:
    return [flow["step"] for flow in max(flows, key=len, default=[])]


def total(parts: Iterable[Mapping[str, Any]], keeps: int) -> dict[str, Any]:
    """Groups of documents as one: counts added, and the samples of the smallest hash, each text once."""
    parts = list(parts)
    samples = sorted(
        (sample for part in parts for sample in part["samples"]),
        key=lambda each: (each["position"], each["id"], each["source"], each["place"]),
    )
    first = {sample["id"] or sample["place"]: sample for sample in reversed(samples)}
    chosen = sorted(first.values(), key=lambda each: (each["position"], each["place"]))[:keeps]
    counts = {name: sum(part[name] for part in parts) for name in ("documents", "bytes")}
    return {**counts, "samples": chosen}


def shown(group: dict[str, Any], plan: Plan) -> dict[str, Any]:
    """The group without the texts that are to be forgotten."""
    forgotten = frozenset(plan.forget)

    def hidden(sample: Mapping[str, Any]) -> bool:
        return not forgotten.isdisjoint((sample["id"], sample["source"], sample["whole"]))

    samples = [sample | ({"text": ""} if hidden(sample) else {}) for sample in group["samples"]]
    return {**group, "samples": samples}


def rules(findings: Findings) -> list[tuple[str, list[dict[str, Any]]]]:
    """(step, its rules, those that took most first), in the order of the steps."""
    rows = [row for shard in (*findings.cleaned, *findings.written) for row in shard.about["rules"]]
    order = [flow["step"] for flow in funnel(findings.cleaned, findings.written)]

    def key(row: Mapping[str, Any]) -> tuple[int, str, str]:
        return order.index(row["step"]), row["step"], row["rule"]

    found: dict[str, list[dict[str, Any]]] = {}
    for (_, step, rule), group in groupby(sorted(rows, key=key), key):
        made = shown(total(group, SAMPLES), findings.plan)
        found.setdefault(step, []).append({"rule": rule.removeprefix(f"{step}: "), **made})
    return [
        (step, sorted(group, key=lambda row: (-row["documents"], row["rule"])))
        for step, group in found.items()
    ]


def unread(findings: Findings) -> list[dict[str, Any]]:
    """Input that never became a document, by kind."""
    rows = sorted(
        (row for shard in findings.cleaned for row in shard.about["unread"]), key=lambda row: row["rule"]
    )
    grouped = groupby(rows, lambda row: row["rule"])
    found = [{"rule": rule, **total(group, SAMPLES)} for rule, group in grouped]
    for row in found:
        row["samples"] = [
            each | {"place": _within(each["place"], findings.plan.sources)} for each in row["samples"]
        ]
    return sorted(found, key=lambda row: (-row["documents"], row["rule"]))


def _within(place: str, sources: Sequence[Source]) -> str:
    """A place by its source's name and the path below it, so that where the source lay does not matter."""
    for source in sources:
        folder = source.path.rstrip("/")
        if place.startswith(folder):
            return f"{source.name}: {place[len(folder) :].lstrip('/')}".removesuffix(": ")
    return place


def sources(findings: Findings) -> list[dict[str, Any]]:
    """What each source gave, what it states, and what it does not say."""
    plan, counts = findings.plan, dict[str, Counter[str]]()
    for source, before, after in zip(findings.source_of, findings.cleaned, findings.written, strict=True):
        first = before.about["flows"][0]
        counts.setdefault(plan.sources[source].name, Counter()).update(
            documents=first["documents"], bytes=first["bytes"],
            kept_documents=after.rows_out, kept_bytes=after.bytes_out,
        )  # fmt: skip
    most = max((count["kept_bytes"] for count in counts.values()), default=0) or 1
    named = stated(plan.sources, plan.masks).by_source | findings.provenance.by_source
    return [
        {
            "name": name,
            **{key: count[key] for key in ("documents", "bytes", "kept_documents", "kept_bytes")},
            "share": count["kept_bytes"] / most,
            **_said(named.get(name, Facts())),
        }
        for name, count in counts.items()
    ]


def _said(facts: Facts) -> dict[str, Any]:
    said = {
        "licence": _list(facts.licences),
        "jurisdiction": _list(facts.jurisdictions),
        "personal data": _list(facts.personal_data),
        "legal basis": _list(facts.bases()),
        "retention": _list(facts.retentions()),
    }
    listed = (facts.licences, facts.jurisdictions, facts.personal_data, facts.bases(), facts.retentions())
    unknown = [name for name, counts in zip(said, listed, strict=True) if UNKNOWN in counts or not counts]
    return {"said": said, "unknown": unknown}


def _list(counts: Mapping[str, int]) -> str:
    """ "MIT", or "MIT 3, unknown 1"."""
    ranked = Counter(counts).most_common()
    if len(ranked) < 2:
        return ranked[0][0] if ranked else UNKNOWN
    rest = f" and {len(ranked) - 5} more" if len(ranked) > 5 else ""
    return ", ".join(f"{word} {count:,}" for word, count in ranked[:5]) + rest


def languages(tally: Tally) -> list[tuple[str, int, float]]:
    """(language, bytes, share of the largest); none where nobody looked."""
    if set(tally.languages) <= {"not looked at"}:
        return []
    ranked = sorted(tally.languages.items(), key=lambda item: (-item[1], item[0]))
    most = ranked[0][1] or 1
    rest = sum(size for _, size in ranked[MANY:])
    ranked = ranked[:MANY] + ([(f"{len(ranked) - MANY} more", rest)] if rest else [])
    return [(name, size, min(1.0, size / most)) for name, size in ranked]


def lengths(tally: Tally) -> str:
    """How long the documents are."""
    counts = {int(power): count for power, count in tally.lengths.items()}
    if not counts:
        return ""
    bins = [(power_of_two(n), counts.get(n, 0)) for n in range(min(counts), max(counts) + 1)]
    return histogram(bins, "characters, from", "documents", "Documents by length")


def power_of_two(power: int) -> str:
    """10 -> "1k": 1,024."""
    return f"{1 << power % 10}{('', 'k', 'M', 'G', 'T')[min(4, power // 10)]}"


def near(findings: Findings) -> Mapping[str, Any] | None:
    """Clusters of near duplicates. Their texts are not shown where something is to be forgotten: a nearly
    equal text would tell it."""
    found = findings.resolved.get("near")
    if found is None or not findings.plan.forget:
        return found
    return {**found, "largest": [{**each, "examples": []} for each in found["largest"]]}


def clusters(found: Mapping[str, Any] | None) -> str:
    """How large the clusters are."""
    if not found or not found["histogram"]:
        return ""
    bins = [(f"{size} to {2 * size - 1}", count) for size, count in found["histogram"]]
    return histogram(bins, "documents in the cluster", "clusters", "Clusters of near duplicates by size")


def suites(findings: Findings) -> list[dict[str, Any]]:
    """Items and hits of each evaluation suite."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for shard in findings.written:
        for suite, group in shard.about["hits"].items():
            parts.setdefault(suite, []).append(group)
    names = sorted({*findings.suites, *parts})
    found = [(name, shown(total(parts.get(name, []), SAMPLES), findings.plan)) for name in names]
    rows = [{"suite": name, "items": findings.suites.get(name, 0), **group} for name, group in found]
    return sorted(rows, key=lambda row: (-row["documents"], row["suite"]))


def recall(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The injection test: what was planted and found, by disguise."""
    found = metrics.get("decontamination") or {}
    return [
        {"kind": kind, "share": each["found"] / each["planted"], "asked": BARS.get(kind), **each}
        for kind, each in found.items()
        if isinstance(each, Mapping) and each.get("planted")
    ]


def recall_plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Shares with their intervals."""
    dots = [
        (row["kind"], [Dot(model=1, name="found", mean=row["share"], low=row["low"], high=row["high"])])
        for row in rows
    ]
    return interval_chart(dots, "Planted evaluation items that were found")

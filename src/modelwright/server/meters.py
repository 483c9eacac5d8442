"""What is counted while models answer, and how Prometheus reads it.

The names are vLLM's with our own prefix, so that a dashboard made for it serves here by search and
replace. The text format: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from modelwright.inference.engine import Delta
from modelwright.inference.scheduler import EngineStats

PREFIX = "modelwright:"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
HISTOGRAMS = {
    "time_to_first_token_seconds": ("From arrival to the first token of the answer.", SECONDS),
    "inter_token_latency_seconds": ("Between two tokens of a stream.", SECONDS),
    "request_time_per_output_token_seconds": ("Mean time per token after the first, by request.", SECONDS),
    "e2e_request_latency_seconds": ("From arrival to the end.", SECONDS),
    "request_queue_time_seconds": ("From arrival to the first computation.", SECONDS),
    "request_prefill_time_seconds": ("From the first computation to the first token.", SECONDS),
    "request_decode_time_seconds": ("From the first token to the end.", SECONDS),
    "request_prompt_tokens": ("Tokens of prompts.", TOKENS),
    "request_generation_tokens": ("Tokens of answers.", TOKENS),
}
COUNTERS = {
    "prefix_cache_queries_total": ("Tokens of prompts looked up in the cache.", "prefix_queries"),
    "prefix_cache_hits_total": ("Of these, tokens that were found.", "prefix_hits"),
    "prompt_tokens_total": ("Tokens of prompts that were taken in.", "prompt_tokens"),
    "generation_tokens_total": ("Tokens drawn.", "generation_tokens"),
    "num_preemptions_total": ("Requests that had to give their place up for a while.", "preemptions"),
    "spec_decode_num_drafts_total": ("Steps of requests for which something was guessed.", "drafts"),
    "spec_decode_num_draft_tokens_total": ("Tokens guessed by speculation.", "drafted"),
    "spec_decode_num_accepted_tokens_total": ("Of these, tokens that were right.", "accepted"),
}
"""name -> (help, field of EngineStats). They begin at 0 again when a model is reloaded."""
GAUGES = {
    "num_requests_running": ("Requests being answered.", "running"),
    "num_requests_waiting": ("Requests in the queue.", "waiting"),
    "kv_cache_usage_perc": ("Share of the key-value cache in use; 1 is full.", "cache_usage"),
}


@dataclass(slots=True)
class Histogram:
    """How many values fell into each interval."""

    bounds: tuple[float, ...]
    counts: list[int]
    total: float = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self, name: str, labels: str) -> Iterator[str]:
        """Buckets (each holds those below it too), sum and count."""
        below = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{{labels},le="{bound}"}} {below}'
        yield f"{name}_sum{{{labels}}} {self.total}"
        yield f"{name}_count{{{labels}}} {below}"


class Meters:
    """What one model's requests came to. Written by the worker's thread, read by the event loop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.finished = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        """Requests by how they ended: the model's own end, the limit, the client's leaving, or a failure."""
        self.histograms = {
            name: Histogram(bounds, [0] * (len(bounds) + 1)) for name, (_, bounds) in HISTOGRAMS.items()
        }

    def between_tokens(self, seconds: float) -> None:
        """A stream waited this long for its next token."""
        with self._lock:
            self.histograms["inter_token_latency_seconds"].observe(seconds)

    def ended_early(self, reason: Literal["abort", "error"]) -> None:
        """A request ended without its answer."""
        with self._lock:
            self.finished[reason] += 1

    def ended(self, prompt_tokens: int, last: Delta) -> None:
        """A request came to its end, which `last` told."""
        completion, timing = last.completion, last.timing
        if completion is None or timing is None:
            return
        drawn = len(completion.ids)
        values = {
            "time_to_first_token_seconds": timing.first_token - timing.arrived,
            "e2e_request_latency_seconds": timing.ended - timing.arrived,
            "request_queue_time_seconds": timing.admitted - timing.arrived,
            "request_prefill_time_seconds": timing.first_token - timing.admitted,
            "request_decode_time_seconds": timing.ended - timing.first_token,
            "request_prompt_tokens": prompt_tokens,
            "request_generation_tokens": drawn,
        }
        if drawn > 1:
            values["request_time_per_output_token_seconds"] = (timing.ended - timing.first_token) / (
                drawn - 1
            )
        with self._lock:
            self.finished[completion.finish_reason] += 1
            for name, value in values.items():
                self.histograms[name].observe(value)

    def lines(self, name: str, labels: str) -> list[str]:
        """One histogram as text."""
        with self._lock:
            return list(self.histograms[name].lines(PREFIX + name, labels))


def exposition(models: Mapping[str, tuple[EngineStats, Meters]]) -> str:
    """What /metrics answers, for models by name."""
    labels = {name: f'model_name="{_escaped(name)}"' for name in models}

    def of_engine(name: str, field: str) -> Iterable[str]:
        for model, (stats, _) in models.items():
            yield f"{PREFIX}{name}{{{labels[model]}}} {getattr(stats, field)}"

    lines: list[str] = []
    for kind, metrics in (("gauge", GAUGES), ("counter", COUNTERS)):
        for name, (says, field) in metrics.items():
            lines += [*_head(name, kind, says), *of_engine(name, field)]
    lines += _head("request_success_total", "counter", "Requests by how they ended.")
    for model, (_, meters) in models.items():
        for reason, count in meters.finished.items():
            lines.append(
                f'{PREFIX}request_success_total{{{labels[model]},finished_reason="{reason}"}} {count}'
            )
    for name, (says, _) in HISTOGRAMS.items():
        lines += _head(name, "histogram", says)
        for model, (_, meters) in models.items():
            lines += meters.lines(name, labels[model])
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, says: str) -> list[str]:
    return [f"# HELP {PREFIX}{name} {says}", f"# TYPE {PREFIX}{name} {kind}"]


def _escaped(label: str) -> str:
    """A label's value: backslash, quote and line break must not end it."""
    return label.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

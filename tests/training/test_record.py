"""What is recorded of a step against what it is said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests.training.tiny import make_model, make_run, make_windows, train_in

from modelwright.base.metrics import read_metrics
from modelwright.objectives.next_token import NextToken
from modelwright.training.loop import LoopConfig, train
from modelwright.training.record import Pace, Record, RecordConfig, group_of
from modelwright.training.spread import Spread


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("model.embed_tokens.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("model.layers.0.self_attn.q_proj.weight", "attention"),
        ("model.layers.0.self_attn.q_norm.weight", "norms"),
        ("model.layers.3.mlp.up_proj.weight", "mlp"),
        ("model.layers.3.mlp.gate_proj.weight", "mlp"),
        ("model.layers.3.mlp.experts.gate_up", "experts"),
        ("model.layers.3.mlp.gate.weight", "router"),
        ("model.norm.weight", "norms"),
        ("something.else", "other"),
    ],
)
def test_every_parameter_has_a_group(name: str, group: str) -> None:
    assert group_of(name) == group


def test_norms_of_the_groups_make_the_norm_of_all(tmp_path: Path) -> None:
    config = LoopConfig(record=RecordConfig(every=3, updates=True))
    train_in(tmp_path, make_model(), NextToken(), make_windows(), 7, config)
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    recorded = [line for line in lines if "grad_norm_attention" in line]
    assert [line["step"] for line in recorded] == [1, 3, 6]
    for line in recorded:
        groups = {name: value for name, value in line.items() if name.startswith("grad_norm_")}
        assert set(groups) >= {"grad_norm_embedding", "grad_norm_mlp", "grad_norm_norms"}
        assert sum(value**2 for value in groups.values()) ** 0.5 == pytest.approx(line["grad_norm"], rel=1e-5)
        assert 0 < line["update_ratio_attention"] < 1


def test_an_update_ratio_is_change_over_size() -> None:
    model = make_model()
    record = Record(Spread(model), dict(model.named_parameters()), RecordConfig(updates=True), None)
    assert record.gradients(1) == {}, "no gradient yet"
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    assert record.updates() == pytest.approx(dict.fromkeys(record_groups(model), 0.25), rel=1e-4)
    assert record.updates() == {}, "asked for once a step"


def record_groups(model) -> set[str]:
    return {f"update_ratio_{group_of(name)}" for name, _ in model.named_parameters()}


def test_recording_changes_no_weight(tmp_path: Path) -> None:
    ends = []
    for folder, record in (("plain", RecordConfig()), ("all", RecordConfig(every=1, updates=True))):
        model = make_model()
        train_in(tmp_path / folder, model, NextToken(), make_windows(), 4, LoopConfig(record=record))
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_speed_and_arithmetic_follow_from_the_tokens(tmp_path: Path) -> None:
    config, run = LoopConfig(), make_run(tmp_path)
    try:
        plan = config.plan(3)
        pace = Pace(flops_per_token=1e6, peak=1e9)
        train(make_model(), NextToken(), make_windows(), plan, config, run, validate=dict, pace=pace)
    finally:
        run.close()
    metrics, timing = (list(read_metrics(tmp_path / name)) for name in ("metrics.jsonl", "timing.jsonl"))
    assert [line["flops"] for line in metrics] == [line["tokens"] * 1e6 for line in metrics]
    for line in timing:
        assert line["mfu"] == pytest.approx(line["tokens_per_second"] * 1e6 / 1e9)
        assert line["data_seconds"] >= 0 and line["memory_bytes"] > 1e7
    used = list(read_metrics(tmp_path / "resources.jsonl"))
    assert used and used[-1]["rss_bytes"] > 1e7 and used[-1]["energy_wh"] > 0


def test_trackers_are_no_part_of_what_decides_the_result() -> None:
    plain, tracked = LoopConfig(), LoopConfig(record=RecordConfig(trackers=("tensorboard",)))
    assert json.dumps(plain.model_dump(mode="json")) == json.dumps(tracked.model_dump(mode="json"))


class Breaks:
    """Batches whose sixth is a power cut."""

    def __getitem__(self, index: int):
        if index == 5:
            raise KeyboardInterrupt
        return make_windows()[index]


def test_an_interrupted_run_is_shown_without_a_step_twice(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = LoopConfig(checkpoint_every=3, record=RecordConfig(trackers=("tensorboard",)))
    with pytest.raises(KeyboardInterrupt):
        train_in(tmp_path, make_model(), NextToken(), Breaks(), 7, config)
    train_in(tmp_path, make_model(), NextToken(), make_windows(), 7, config)
    found = reader.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    lines = list(read_metrics(tmp_path / "metrics.jsonl"))
    shown = [(event.step, event.value) for event in found.Scalars("loss")]
    assert shown == [(line["step"], pytest.approx(line["loss"])) for line in lines]
    assert [step for step, _ in shown] == list(range(1, 8))

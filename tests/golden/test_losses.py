"""Training computes what it computed when the losses were committed (see make.py for when they may change).

Equal means within RTOL, relative: other processors and kernels round sums in another order. Measured with
torch 2.13: two threads give the bits of one; plain kernels in place of compiled ones move a loss by up to
7e-7 of itself, AVX2 in place of AVX-512, also in the products, by up to 6e-7. Without AVX: 5e-6. In the
mixture a token within rounding of a tie may go to another expert: 7e-5 without AVX, and with plain kernels on
an AMD EPYC with AVX-512. A learning rate off by one per cent moves them by 8e-4 to 5e-3.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.golden.configurations import CONFIGURATIONS, Losses
from tests.golden.make import FILE

from modelwright.kernels import native

RTOL = 1e-5 if torch.backends.cpu.get_cpu_capability().startswith("AVX") else 1e-4
RTOL_OF_TIES = 1e-4
GOLDEN: dict[str, Losses] = json.loads(FILE.read_text())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As small as these are, a second thread only costs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tolerance(name: str) -> float:
    """Of a configuration's losses, relative."""
    return RTOL_OF_TIES if name.startswith("mixture") else RTOL


def differences(found: Losses, expected: Losses) -> dict[str, float]:
    """What is compared -> the largest relative difference."""
    assert found.keys() == expected.keys()
    return {
        name: max(abs(a / b - 1) for a, b in zip(found[name], expected[name], strict=True)) for name in found
    }


def test_every_configuration_has_committed_losses() -> None:
    assert GOLDEN.keys() == CONFIGURATIONS.keys()


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_losses_are_those_that_were_committed(name: str, tmp_path: Path) -> None:
    found = differences(CONFIGURATIONS[name].losses(tmp_path), GOLDEN[name])
    assert max(found.values()) <= tolerance(name), found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_plain_kernels_give_the_same_losses(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "usable", lambda *tensors: False)
    found = differences(CONFIGURATIONS[name].losses(tmp_path), GOLDEN[name])
    assert max(found.values()) <= tolerance(name), found


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_learning_rate_off_by_one_per_cent_would_be_seen(name: str, tmp_path: Path) -> None:
    found = differences(CONFIGURATIONS[name].losses(tmp_path, rates=1.01), GOLDEN[name])
    assert min(found.values()) > 5 * tolerance(name), found

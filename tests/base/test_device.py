"""Choosing a device: what is asked for and not there is said in words."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest
import torch

from modelwright.base import device
from modelwright.base.device import choose
from modelwright.base.errors import UserError


def test_a_gpu_that_is_not_there_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no GPU here: take 'cpu' or 'auto'"):
        choose("cuda", "float32")
    chosen = choose("auto", "float32")
    assert (chosen.name, chosen.dtype) == ("cpu", torch.float32)


FAULTS = """
import resource, sys, torch
from modelwright.base.device import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40 if kept else 1):  # until the free pieces have grown together
    torch.ones(16_000_000)
before = faults()
for _ in range(5):
    torch.ones(16_000_000)  # 64 MB: by default mapped, zeroed and handed back each time
print(kept, faults() - before)
"""


def test_freed_memory_is_used_again_without_page_faults() -> None:
    def run(how: str) -> tuple[str, int]:
        command = [sys.executable, "-c", FAULTS, how]
        kept, faults = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return kept, int(faults)

    kept, faults = run("keep")
    if platform.libc_ver()[0] != "glibc":
        assert kept == "False"
        return
    assert kept == "True"
    _, by_default = run("default")
    assert faults < 0.1 * by_default


LEFT = """
import sys, torch
from contextlib import nullcontext
from modelwright.base.device import freed_memory_given_back, keep_freed_memory
keep_freed_memory()
status = lambda: open("/proc/self/status").read().split("RssAnon:")[1].split()[0]
before = int(status())
with freed_memory_given_back() if sys.argv[1] == "given back" else nullcontext():
    small = [torch.randn(2_000_000).to(torch.int8) for _ in range(20)]  # 8 MB each, of which 2 stay
print(int(status()) - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator that is told is glibc's")
def test_what_loading_frees_is_given_back() -> None:
    def run(how: str) -> int:
        command = [sys.executable, "-c", LEFT, how]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    small = 20 * 2_000_000 / 1024
    assert run("given back") < 1.15 * small
    assert run("kept") > 1.15 * small


def test_memory_is_kept_again_after_a_failed_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(device, "_set_allocator", lambda parameter, value: bool(told.append(value)) or True)
    with pytest.raises(OSError, match="truncated"), device.freed_memory_given_back():
        assert told == [2**17]
        raise OSError("truncated")
    assert told[1:] == [2**30, 2**31 - 1]

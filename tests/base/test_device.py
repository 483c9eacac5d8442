"""Choosing a device: what is asked for and not there is said in words."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

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


@pytest.mark.parametrize("unit", ["avx512_bf16", "amx_bf16"])
def test_a_processor_that_multiplies_bf16_is_believed_however_busy_it_is(
    unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Timed beside other work fp32 may seem as fast, and a run taken up again would change its format."""
    monkeypatch.setattr(device, "matmul_gflops", lambda dtype: 1.0)
    monkeypatch.setattr(device, "processor", lambda: "model name : X\nflags : fpu avx512f")
    device.bf16_is_faster.cache_clear()
    try:
        assert not device.bf16_is_faster("cpu")
        device.bf16_is_faster.cache_clear()
        monkeypatch.setattr(device, "processor", lambda: f"model name : X\nflags : fpu {unit}")
        assert device.bf16_is_faster("cpu")
    finally:
        device.bf16_is_faster.cache_clear()


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine where everything is there that a GPU's kernels are built with; where its headers lie."""
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(device, "find_spec", lambda name: object())
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name in ("cc", "gcc") else None)
    monkeypatch.setattr(sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path)})
    device.missing_for_gpu.cache_clear()
    yield tmp_path
    device.missing_for_gpu.cache_clear()


def test_a_gpu_s_kernels_are_compiled_where_nothing_is_missing(whole: Path) -> None:
    assert device.missing_for_gpu() == "" and device.can_compile_for_gpu()


def test_what_is_missing_is_named(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slim image has a compiler and Triton, and no headers: the first kernel would end the training."""
    (whole / "Python.h").unlink()
    missing = device.missing_for_gpu()
    assert "python3-dev" in missing and "Triton" not in missing and "compiler" not in missing
    device.missing_for_gpu.cache_clear()
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    monkeypatch.setenv("CC", "nowhere")  # who names one gets no other, as Triton has it
    assert not device.can_compile_for_gpu()
    assert all(word in device.missing_for_gpu() for word in ("Triton", "a C compiler (nowhere)", "Python.h"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = choose("cuda", "bfloat16")
    assert not chosen.compiler and chosen.missing == device.missing_for_gpu()


def test_a_compiler_that_only_calls_itself_cc_is_not_found_by_triton(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/cc" if name == "cc" else None)
    assert "a C compiler (gcc or clang)" in device.missing_for_gpu()


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

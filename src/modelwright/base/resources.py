"""What a training uses while it works: processors, memory, GPU, energy, sampled every few seconds; and what
a process still holds of a work that is done, given back.

Energy is metered where the machine lets us: a CPU's package counters (RAPL, /sys/class/powercap), a GPU's
power as nvidia-smi tells it. What has no meter is assumed, and it is said which. Of several processes the
first one samples: all GPUs that its machine's processes have. Other machines are taken to use as much.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from modelwright.base.world import place

ASSUMED_WATTS_PER_CPU = 10.0
"""Where no meter is at hand: a share of a server CPU's power per core."""
SECONDS = 5.0
"""Between samples; the one at the end is taken at once."""
POWERCAP = Path("/sys/class/powercap")

Sink = Callable[[dict[str, float]], None]


class Watch:
    """Samples from entering to leaving. Numbers go on from an earlier session's."""

    def __init__(
        self, sink: Sink, energy_wh: float = 0.0, seconds: float = 0.0, every: float = SECONDS
    ) -> None:
        self._sink, self._every = sink, every
        self.energy_wh, self.seconds = energy_wh, seconds
        """Used while watched, this session and earlier ones together."""
        here = place()
        self._machines = here.size // here.local_size
        self._cpu, self._gpu = CpuEnergy(), GpuMeter(here.local_size)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="resources", daemon=True)
        self._clock, self._busy = time.monotonic(), _cpu_seconds()

    @property
    def source(self) -> str:
        """How energy was measured, for the manifest."""
        gpu = f"; GPU: {self._gpu.source}" if self._gpu.source else ""
        alike = f"; {self._machines} machines, one of them metered" if self._machines > 1 else ""
        return f"CPU: {self._cpu.source}{gpu}{alike}"

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _work(self) -> None:
        with suppress(OSError):  # a full disk ends the samples; who trains says so
            while not self._ended.wait(self._every):
                self._sample()
            self._sample()

    def _sample(self) -> None:
        now, busy = time.monotonic(), _cpu_seconds()
        passed = max(now - self._clock, 1e-6)
        found = {"cpus_busy": round((busy - self._busy) / passed, 3), "rss_bytes": float(resident_bytes())}
        gpu = self._gpu.read()
        found |= gpu
        joules = self._cpu.joules(passed) + gpu.get("gpu_watts", 0.0) * passed
        self.energy_wh += self._machines * joules / 3600
        self.seconds += passed
        self._clock, self._busy = now, busy
        self._sink({**found, "energy_wh": self.energy_wh, "watched_seconds": self.seconds})


class CpuEnergy:
    """Joules of the processors since the last reading."""

    def __init__(self, folder: Path = POWERCAP) -> None:
        self._domains = {
            path: int(_read(path.parent / "max_energy_range_uj") or 0)
            for path in sorted(folder.glob("intel-rapl:*/energy_uj"))
            if path.parent.name.count(":") == 1 and _read(path) is not None  # packages, not their parts
        }
        self._last = {path: int(_read(path) or 0) for path in self._domains}

    @property
    def source(self) -> str:
        """Metered or assumed."""
        return "RAPL" if self._domains else f"assumed, {ASSUMED_WATTS_PER_CPU:g} W a core"

    def joules(self, seconds: float) -> float:
        """Since the last call, `seconds` ago."""
        if not self._domains:
            return ASSUMED_WATTS_PER_CPU * (os.cpu_count() or 1) * seconds
        total = 0
        for path, wrap in self._domains.items():
            now = int(_read(path) or self._last[path])
            total += now - self._last[path] + (wrap if now < self._last[path] else 0)
            self._last[path] = now
        return total / 1e6


class GpuMeter:
    """Use, memory and power of the GPUs that so many processes of this machine have, one each, where torch
    has opened them."""

    def __init__(self, processes: int = 1) -> None:
        self.source = ""
        self._command: list[str] | None = None
        torch: Any = sys.modules.get("torch")
        if torch is None or not torch.cuda.is_available():
            return
        self.source = "no meter, not counted"
        tool, cuda = shutil.which("nvidia-smi"), torch.cuda
        used = [cuda.current_device()] if processes == 1 else range(min(processes, cuda.device_count()))
        ids = [getattr(cuda.get_device_properties(number), "uuid", None) for number in used]
        if tool and all(ids):
            asked = "--query-gpu=utilization.gpu,memory.used,power.draw"
            devices = ",".join(f"GPU-{uuid}" for uuid in ids)
            self._command = [tool, asked, "--format=csv,noheader,nounits", f"--id={devices}"]
            self.source = "nvidia-smi" if len(ids) == 1 else f"nvidia-smi, {len(ids)} GPUs"

    def read(self) -> dict[str, float]:
        """Mean use, memory of the fullest, power of all together. Empty where there is nothing to read; asked
        no more after it failed once."""
        if self._command is None:
            return {}
        try:
            done = subprocess.run(self._command, capture_output=True, text=True, timeout=10, check=True)
            rows = [[float(part) for part in line.split(",")] for line in done.stdout.splitlines()]
            used, memory, watts = zip(*rows, strict=True)
        except (OSError, ValueError, subprocess.SubprocessError):
            self._command, self.source = None, "no meter, not counted"
            return {}
        return {
            "gpu_busy": sum(used) / len(used) / 100,
            "gpu_memory_bytes": max(memory) * 2**20,
            "gpu_watts": sum(watts),
        }


def peak_resident_bytes() -> int:
    """The most main memory that this process has held. On Linux not by getrusage, whose figure begins with
    the parent's size."""
    for line in (_read(Path("/proc/self/status")) or "").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Let the peak begin anew with what is held now. Linux does so when it is asked; elsewhere the peak stays
    that of the whole process."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def return_unused_memory() -> None:
    """Give back to the system what was freed and kept for the next of its kind: what only garbage refers to,
    whole pages of malloc's, and pyarrow's pool. For the end of a work: in one that goes on, the pages would
    be asked for again. In one process the stations of the quickstart left 140 to 290 MiB each (measured)."""
    gc.collect()
    if pyarrow := sys.modules.get("pyarrow"):
        pyarrow.default_memory_pool().release_unused()
    if sys.platform.startswith("linux") and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # glibc's; musl has none


def resident_bytes() -> int:
    """Memory that this process holds now; 0 where the system does not say."""
    text = _read(Path("/proc/self/statm"))
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") if text else 0


def _cpu_seconds() -> float:
    """Processor time of this process and of those it has waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None

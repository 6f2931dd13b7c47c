"""Bounds on what a block of code takes: seconds of its process, seconds on the clock, and memory at its highest."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path


def forget_peak() -> None:
    """From here on VmHWM is the highest resident size since now, not of the process's life (proc(5), clear_refs)."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(name: str) -> int:
    """VmRSS, the resident size now, or VmHWM, its highest value, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name + ":")).split()[1])


# How much longer than its own work a block may last on the clock: other tests run beside it, on the same cores.
BESIDE = 5


@contextlib.contextmanager
def bounded(seconds: float, megabytes: float) -> Iterator[None]:
    """Fail where the block works or waits longer, or at any moment holds more memory than at its beginning."""
    forget_peak()
    before, started, worked = resident("VmRSS"), time.monotonic(), time.process_time()
    yield
    took, works, held = time.monotonic() - started, time.process_time() - worked, (resident("VmHWM") - before) / 1e6
    assert works < seconds and took < BESIDE * seconds, f"{works:.2f} s of work in {took:.2f} s"
    assert held < megabytes, f"{held:.0f} MB"

"""`train.py --profile`: where the time of a few training steps goes."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from foldsmith.files import atomic_path

WAIT, WARMUP, STEPS = 3, 2, 10  # batches that are left out, that warm the profiler up, that are recorded
ROWS = 15  # costs that are printed


@contextmanager
def profiled(path: Path, device: torch.device, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
    """Record a chrome trace of batches at `path`, and say what cost the most. Yields what to call after each batch."""
    cuda = device.type == "cuda"
    seen = []
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def finish(profiler: profile) -> None:
        if profiler.step_num < WAIT + WARMUP + STEPS:
            return
        seen.append(path)
        with atomic_path(path, None) as temporary, tempfile.TemporaryDirectory(dir=path.parent) as folder:
            trace = Path(folder) / path.name  # torch makes a file beside it, and does not say that the disk is full
            profiler.export_chrome_trace(str(trace))
            try:
                json.loads(trace.read_bytes())
            except (FileNotFoundError, ValueError):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            os.replace(trace, temporary)
        key = "self_device_time_total" if cuda else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=key, row_limit=ROWS, max_name_column_width=40)
        say(f"profile of {STEPS} batches: {path}; open it in chrome://tracing or ui.perfetto.dev\n{table}")

    plan = schedule(wait=WAIT, warmup=WARMUP, active=STEPS, repeat=1)
    with profile(activities=kinds, schedule=plan, on_trace_ready=finish) as profiler:
        yield profiler.step
    if not seen:
        say(f"no profile: the epoch has fewer than {WAIT + WARMUP + STEPS} batches")

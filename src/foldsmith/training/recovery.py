"""What a fold's training survives: a lost data loading process, once an epoch, and memory that runs out.

Both go on as a new process would, from last.ckpt.
"""

import gc
import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from foldsmith.errors import EXIT_ENVIRONMENT, EXIT_UNTRUSTED, UserError
from foldsmith.files import read_json, write_json
from foldsmith.inference.predict import is_out_of_memory
from foldsmith.training import distributed
from foldsmith.training.job import FoldJob

Result = TypeVar("Result")

# How torch tells of a process that died, and of one that gave nothing within train.worker_timeout seconds.
_LOST = ("DataLoader worker (pid", "DataLoader timed out after")


def with_recovery(job: FoldJob, train: Callable[[], Result]) -> Result:
    """Call `train`, which goes on from last.ckpt, until it ends or nothing more can be done about its failures."""
    checkpoint = job.run.fold(job.fold) / "last.ckpt"
    lost_at: int | None = None
    while True:
        try:
            return train()
        except (RuntimeError, MemoryError, ConnectionError, EOFError) as error:
            if not (is_lost_worker(error) or is_memory(error)):
                raise
            memory, reason = is_memory(error), (str(error).splitlines() or [repr(error)])[0]
            # Before the loader is taken apart, which would wait for them.
            watching = end_workers()
        # Outside of the handler, which holds what the failed epoch had allocated.
        gc.collect()
        signal.signal(signal.SIGCHLD, watching)
        if job.device.type == "cuda":
            torch.cuda.empty_cache()
        if memory:
            _halve(job, reason)
            if distributed.size() > 1:
                raise _for_torchrun(f"process {distributed.rank()} ran out of memory: {reason}")
            continue
        if distributed.size() > 1:
            raise _for_torchrun(f"process {distributed.rank()} lost a data loading process: {reason}")
        here = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0
        if here == lost_at:
            raise UserError(
                f"a data loading process was lost twice in one epoch: {reason}",
                key="train.workers",
                hint="too little memory or /dev/shm (fewer train.workers; 0 needs none), or a disk that hangs "
                "(a longer train.worker_timeout); what was finished is kept",
                code=EXIT_ENVIRONMENT,
            )
        lost_at = here
        job.say(f"a data loading process was lost ({reason}); the epoch starts over")


def _for_torchrun(what: str) -> UserError:
    """The other processes wait for this one within a step: none of them can start the epoch over by itself."""
    return UserError(
        what,
        hint="the same command goes on from last.ckpt; torchrun --max-restarts 3 calls it again by itself",
        code=EXIT_ENVIRONMENT,
    )


def is_lost_worker(error: BaseException) -> bool:
    """Whether a DataLoader's process died or hung. Its queue may be the first to notice."""
    return isinstance(error, ConnectionError | EOFError) or str(error).startswith(_LOST)


def is_memory(error: BaseException) -> bool:
    """Whether the memory ran out, of a device or of the machine."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and is_out_of_memory(error))


def end_workers() -> Any:
    """Kill the data loading processes: one that hangs would not end when it is asked to.

    Returns:
        torch's handler of SIGCHLD, which would raise as they die; to be set again once the loader is gone.
    """
    watching = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    return watching


def pieces_path(job: FoldJob) -> Path:
    """Where a fold keeps in how many parts its batches go through the network, once memory had run out."""
    return job.run.fold(job.fold) / "memory.json"


def pieces_of(job: FoldJob) -> int:
    """Parts in which each batch goes through the network; 1 unless memory ran out."""
    path = pieces_path(job)
    if not path.is_file():
        return 1
    found = read_json(path)
    pieces = found.get("pieces") if isinstance(found, dict) else None
    if not isinstance(pieces, int) or not 1 < pieces <= 2**20:
        raise UserError("does not say in how many pieces batches are trained", file=path, code=EXIT_UNTRUSTED)
    return pieces


def _halve(job: FoldJob, reason: str) -> None:
    """Twice as many pieces from now on, also in a run that is killed and goes on."""
    pieces, batch_size = pieces_of(job) * 2, job.config.train.batch_size
    if pieces // 2 >= batch_size:
        raise UserError(
            f"memory ran out on a single image: {reason}",
            hint="a smaller model.input_size or another model.arch",
            code=EXIT_ENVIRONMENT,
        )
    write_json(pieces_path(job), {"pieces": pieces})
    job.say(
        f"out of memory: from here on {-(-batch_size // pieces)} images at a time go through the network, with the "
        f"gradients of {pieces * job.config.train.accum_batches} such batches in a step (train.batch_size "
        f"{-(-batch_size // pieces)}, accum_batches {pieces * job.config.train.accum_batches}); batch norm sees "
        "smaller batches; the epoch starts over"
    )

"""What a fold's training survives: a lost data loading process, once an epoch, memory that runs out, a lost machine.

All go on as a new process would, from last.ckpt.
"""

import gc
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from foldsmith.errors import EXIT_ENVIRONMENT, EXIT_UNTRUSTED, UserError
from foldsmith.files import read_json, write_json
from foldsmith.inference.predict import is_out_of_memory
from foldsmith.training import distributed, parallel
from foldsmith.training.folder import RunFolder
from foldsmith.training.job import FoldJob
from foldsmith.training.lock import InUseError, locked_run

Result = TypeVar("Result")

LOST_LOCK = 180.0  # seconds in which a file server forgets the locks of a lost machine
POLL = 1.0  # seconds between two tries to lock

# How torch tells of a process that died, and of one that gave nothing within train.worker_timeout seconds.
_LOST = ("DataLoader worker (pid", "DataLoader timed out after")


@contextmanager
def held(run: RunFolder, fold: int | None, *, after_loss: bool) -> Iterator[None]:
    """Hold a run's folder, or one fold of it.

    Args:
        after_loss: who holds it may be on a machine that was lost: it is waited until the file server has noticed.

    Raises:
        InUseError: naming who holds it.
    """
    ends = time.monotonic() + (LOST_LOCK if after_loss else 0.0)
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked_run(run, fold))
                break
            except InUseError:
                if time.monotonic() >= ends:
                    raise
            time.sleep(POLL)
        yield


def with_recovery(job: FoldJob, train: Callable[[int], Result]) -> Result:
    """Call `train`, which goes on from last.ckpt, until it ends or nothing more can be done about its failures.

    Args:
        train: given the number of parts in which each batch goes through the network, of all processes the same.
    """
    checkpoint = job.run.fold(job.fold) / "last.ckpt"
    lost_at: int | None = None
    while True:
        pieces = distributed.on_main(lambda: pieces_of(job))
        try:
            return train(pieces)
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
            halved = _halve(job, pieces, reason)
            if distributed.size() > 1:
                raise distributed.broken_off(f"process {distributed.rank()}, {reason}: {halved}")
            job.say(f"out of memory: {halved}; the epoch starts over")
            continue
        if distributed.size() > 1:
            raise distributed.broken_off(f"process {distributed.rank()} lost a data loading process: {reason}")
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


def _halve(job: FoldJob, pieces: int, reason: str) -> str:
    """Twice as many pieces from now on, also in a run that is killed and goes on; says what that means.

    Args:
        pieces: with which memory ran out. Several processes in which it does write the same.
    """
    train = job.config.train
    of_process = -(-parallel.batch_of_all(train) // distributed.size())
    if pieces >= of_process:
        raise UserError(
            f"memory ran out on a single image: {reason}",
            hint="a smaller model.input_size or another model.arch",
            code=EXIT_ENVIRONMENT,
        )
    pieces *= 2
    write_json(pieces_path(job), {"pieces": pieces})
    return (
        f"from here on {-(-of_process // pieces)} images at a time go through the network, with the "
        f"gradients of {pieces * train.accum_batches} such batches in a step (train.batch_size "
        f"{-(-train.batch_size // pieces)}, accum_batches {pieces * train.accum_batches}); batch norm sees "
        "smaller batches"
    )

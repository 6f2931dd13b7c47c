"""One run's folder, one program at a time: a lock that the kernel takes back when its process dies, however it dies.

POSIX record locks: unlike those of flock(2), they do not live on in the data loading processes of a killed run.
The lock's file lies beside the run's folder, since --fresh deletes the folder, and vanishes with the lock.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from foldsmith.errors import UserError
from foldsmith.training.folder import RunFolder


@contextlib.contextmanager
def locked_run(run: RunFolder, fold: int | None) -> Iterator[None]:
    """Hold a run's folder, all of it or, while others train other folds, one fold.

    Raises:
        UserError: naming who holds it.
    """
    whole = run.output / f".{run.name}.lock"
    if fold is None:
        with _locked(whole, run.path):
            yield
    else:
        with _locked(whole, run.path, shared=True), _locked(run.output / f".{run.name}_f{fold}.lock", run.fold(fold)):
            yield


@contextlib.contextmanager
def _locked(path: Path, what: Path, *, shared: bool = False) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = _acquire(path, what, shared)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # shared with nobody: the file is ours to remove
            path.unlink(missing_ok=True)
        file.close()


def _acquire(path: Path, what: Path, shared: bool) -> BinaryIO:
    """The locked file, which is still the one at `path`: another process may remove it between open and lock."""
    while True:
        file: BinaryIO = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "rb+", buffering=0)
        try:
            fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(json.dumps(_holder()).encode())
                return file
        except (BlockingIOError, PermissionError):
            holder = _words(file.read(1000))
            file.close()
            raise UserError(
                f"is in use: {holder} trains there",
                file=what,
                hint="wait for it, or stop it; --output names another folder; other folds: --fold",
            ) from None
        except FileNotFoundError:
            pass
        file.close()


def _holder() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}


def _words(data: bytes) -> str:
    try:
        holder = json.loads(data)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
    except (ValueError, KeyError, TypeError):  # it is just about to write who it is
        return "another process"


def remove_stale_files(folder: Path) -> int:
    """Remove what killed writers left in a locked folder: temporary files that were never renamed; how many."""
    stale = [path for path in folder.rglob(".*.tmp") if path.is_file()]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)

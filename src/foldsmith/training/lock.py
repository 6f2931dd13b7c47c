"""One run's folder, one program at a time: a lock that the kernel takes back when its process dies, however it dies.

POSIX record locks: unlike those of flock(2), they do not live on in the data loading processes of a killed run.
The lock's file lies beside the run's folder, since --fresh deletes the folder, and vanishes with the lock.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from foldsmith.errors import EXIT_ENVIRONMENT, UserError
from foldsmith.training.folder import RunFolder

WRITING_SECONDS = 2.0  # between a lock and the words of who holds it
STALE_SECONDS = 600.0  # untouched for so long, a temporary file is nobody's
TEMPORARY = (".*.tmp", ".tmp??????")  # what atomic_path and, within it, safetensors write before they rename it


class InUseError(UserError):
    """Another program holds the folder."""


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
                if not shared:
                    file.truncate(0)
                file.seek(0, os.SEEK_END)
                file.write(json.dumps(_holder()).encode() + b"\n")
                return file
        except (BlockingIOError, PermissionError):
            holder = _holder_words(file, shared)
            file.close()
            raise InUseError(
                f"is in use: {holder} trains there",
                file=what,
                hint="wait for it, or stop it; --output names another folder; other folds: --fold",
            ) from None
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            raise UserError(
                f"the file system cannot lock: {error.strerror}",
                file=path,
                hint="--output on a disk of this machine, or mount the shared one so that it can (NFS: lockd runs on "
                "both sides; Lustre: -o flock)",
                code=EXIT_ENVIRONMENT,
            ) from None
        file.close()


def _holder() -> dict[str, object]:
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}


def _pid_of_holder(file: BinaryIO, shared: bool) -> int:
    """The process whose lock is in the way, says the kernel; 0 where it does not know."""
    kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
    asked = struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)  # struct flock of 64-bit Linux
    return int(struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[4])


def _holder_words(file: BinaryIO, shared: bool) -> str:
    """Who holds the lock: the one that the kernel names, of those who wrote who they are."""
    end = time.monotonic() + WRITING_SECONDS
    while True:
        pid = _pid_of_holder(file, shared)
        file.seek(0)
        holder = _written(file.read(1 << 16), pid)
        if holder is not None:
            return f"process {holder['pid']} on {holder['host']}, since {holder['since']},"
        if time.monotonic() > end:
            return f"process {pid}" if pid else "another process"
        time.sleep(0.01)  # it has the lock and is about to write who it is


def _written(data: bytes, pid: int) -> dict[str, object] | None:
    """What a process wrote of itself; of the last one where the kernel does not know which it is (another host's)."""
    try:
        holders = {int(holder["pid"]): holder for holder in map(json.loads, data.splitlines())}
        found: dict[str, object] = holders[pid] if pid else list(holders.values())[-1]
        return found if {"host", "since"} <= found.keys() else None
    except (ValueError, LookupError, TypeError, AttributeError):
        return None


def remove_stale_files(run: RunFolder, folds: Iterable[int]) -> int:
    """Remove what killed writers left: temporary files that were never renamed; returns how many.

    Those of the locked folds all, those beside them after a while: predict_oof.py may just be writing one.
    """
    stale = [path for fold in folds for name in TEMPORARY for path in run.fold(fold).glob(name)]
    long_ago = time.time() - STALE_SECONDS
    stale += [path for name in TEMPORARY for path in run.path.glob(name) if path.stat().st_mtime < long_ago]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)

"""What a command of the warm process may be made to do first: faults that no failpoint of the program has."""

import atexit
import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def count_epochs(path: str) -> None:
    """Append a byte to a file whenever an epoch begins."""
    from foldsmith.training import run

    real = run.train_epoch

    def counting(*args, **rest):
        with open(path, "ab") as file:
            file.write(b"e")
        return real(*args, **rest)

    run.train_epoch = counting


def wait_at_epoch(gate: str) -> None:
    """Hold the first epoch until a file is there."""
    from foldsmith.training import run

    real = run.train_epoch

    def waiting(*args, **rest):
        while not Path(gate).exists():
            time.sleep(0.01)
        return real(*args, **rest)

    run.train_epoch = waiting


def hold_a_batch(number: str, gate: str) -> None:
    """Say so and wait for a file before the n-th batch that is trained on or predicted."""
    from foldsmith.inference import predict
    from foldsmith.training import loop

    left = [int(number)]

    def held(real):
        def call(*args, **rest):
            left[0] -= 1
            if left[0] == 0:
                print("at the gate", flush=True)
                while not Path(gate).exists():
                    time.sleep(0.01)
                time.sleep(0.05)  # the signal comes in the middle of what follows
            return real(*args, **rest)

        return call

    loop.backward = held(loop.backward)
    predict._Batches._forward = held(predict._Batches._forward)


def hold_reading(number: str) -> None:
    """Say so and hang at the n-th image that this process reads, as at a disk that does not answer."""
    from foldsmith.data import bad_images
    from foldsmith.inference import decoded

    left = [int(number)]

    def held(real):
        def call(*args):
            left[0] -= 1
            if left[0] == 0:
                print("at the gate", flush=True)
                time.sleep(3600)
            return real(*args)

        return call

    bad_images.RowReader.__call__ = held(bad_images.RowReader.__call__)
    decoded.DecodedImages._read = held(decoded.DecodedImages._read)


def hold_the_end() -> None:
    """Wait for a signal in the first epoch, and never end cleaning up after it."""
    from foldsmith.training import run

    def hanging(*args, **rest):
        print("at the gate", flush=True)
        try:
            time.sleep(60)
        finally:
            print("cleaning up", flush=True)
            time.sleep(60)

    run.train_epoch = hanging


def hear_no_alarm() -> None:
    """Hang where training begins, as a driver does that hears no signal."""
    from foldsmith.training import run

    def hanging(*args, **rest):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        time.sleep(60)

    run.train_experiment = hanging


def lose_once(how: str, marker: str) -> None:
    """Let the first process that reads a training image be killed or hang, once in all runs that share the marker."""
    from foldsmith.data import bad_images

    real = bad_images.RowReader.__call__

    def reading(self, row):
        try:
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return real(self, row)
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(3600)

    bad_images.RowReader.__call__ = reading


def print_through_pipes() -> None:
    """RLIMIT_FSIZE holds for the files that stdout and stderr are redirected to, too; not for pipes."""
    pipes, readers = [os.pipe(), os.pipe()], []
    for number, (end, _) in enumerate(pipes, start=1):
        if (reader := os.fork()) == 0:
            for _, start in pipes:
                os.close(start)
            while data := os.read(end, 65536):
                os.write(number, data)
            os._exit(0)
        readers.append(reader)
    for number, (end, start) in enumerate(pipes, start=1):
        os.dup2(start, number)
        os.close(start)
        os.close(end)
    sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))  # noqa: SIM115

    def finish() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, reader in zip((1, 2), readers, strict=True):
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            os.waitpid(reader, 0)

    atexit.register(finish)


def full_disk(record: str, place: str, count: str, share: str) -> None:
    """A disk that is full at the n-th write, and a line a write in `record`: the function that begins it.

    Args:
        place: the failpoint of the writes that are counted.
        share: how much of what the file takes has room, 0..1, all but a few bytes at most; empty: 16 bytes, as of logs.
    """
    print_through_pipes()
    from foldsmith import files

    real, left = files.fail, [int(count)]

    def noting(name):
        if name == place:
            with contextlib.suppress(OSError), open(record, "a") as file:  # the disk may be full already
                file.write(_writer() + "\n")
            left[0] -= 1
            if left[0] == 0:
                if share and (size := _size_to_be()) is None:
                    return None
                limit_files(min(int(float(share) * size), size - FEW) if share else 16)
        return real(name)

    files.fail = noting


FEW = 8  # bytes by which two writes of one file may differ: the length of a number in it


def full_disk_at_every_write(record: str, folder: str, last: str) -> None:
    """Before each write let children of this process meet a disk that is full there, after some bytes of the file.

    A line of JSON for each child in `record`: how it ended and what it did to the folder. That is undone, and the
    command itself goes on until its write of number `last`.
    """
    from foldsmith import files

    real, left = files.fail, [int(last)]

    def forking(name):
        if name != "write.opened":
            return real(name)
        files.fail = real
        if (size := _size_to_be()) is None:
            return None
        for room in sorted({0, 16, size // 2, size - FEW} & set(range(size))):
            before, places = _contents(Path(folder)), _places()
            child, said = _fork()
            if child == 0:
                os.dup2(said, 1)
                os.dup2(said, 2)
                os.close(said)
                limit_files(room)
                return None
            note = {"site": _writer(), "room": room, "err": _all_of(said), "code": _end_of(child, places)}
            with open(record, "a") as file:
                file.write(json.dumps(note | _undone(Path(folder), before)) + "\n")
        left[0] -= 1
        if left[0] == 0:
            os._exit(0)
        files.fail = forking
        return None

    files.fail = forking


def _contents(folder: Path) -> dict[Path, bytes]:
    """All files but locks, which reading gives up, and logs, which grow."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.name != "timings.csv"]
    return {path: path.read_bytes() for path in found if path.suffix not in (".lock", ".log")}


def _undone(folder: Path, before: dict[Path, bytes]) -> dict[str, list[str]]:
    """The temporary files that are there, and the others that are not as they were; makes all as it was."""
    after = _contents(folder)
    changed = [path for path in before.keys() | after.keys() if before.get(path) != after.get(path)]
    for path in changed:
        if path in before:
            path.write_bytes(before[path])
        else:
            path.unlink()
    left = [str(path) for path in after if path.suffix == ".tmp"]
    return {"left": left, "changed": sorted(str(path) for path in changed if path.suffix != ".tmp")}


def _size_to_be() -> int | None:
    """Bytes of the file that is about to be written; None in the child that writes it to find that out.

    It ends at the next failpoint of files.py.
    """
    from foldsmith import files

    frame = sys._getframe(1)
    while frame.f_code.co_filename != files.__file__:
        frame = frame.f_back
    path, places = frame.f_locals["temporary"], _places()
    child, end = _fork()
    if child == 0:

        def tell(name):
            os.write(end, str(path.stat().st_size).encode())
            if (beside := sys._getframe(1).f_locals["temporary"]) != path:
                beside.unlink()
            os._exit(0)

        files.fail = tell
        return None
    size = int(_all_of(end))
    _end_of(child, places)
    return size


def _places() -> dict[int, int]:
    """Where this process is in each file that it has open; a child that reads on shares it."""
    found = {}
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # of a pipe, or closed
            found[number] = os.lseek(number, 0, os.SEEK_CUR)
    return found


def _fork() -> tuple[int, int]:
    """0 in the child, and the end of a pipe from the child to its parent."""
    reading, writing = os.pipe()
    child = os.fork()
    os.close(writing if child else reading)
    return child, reading if child else writing


def _all_of(pipe: int) -> str:
    with open(pipe, errors="replace") as file:
        return file.read()


def _end_of(child: int, places: dict[int, int]) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for number, place in places.items():
        with contextlib.suppress(OSError):
            os.lseek(number, place, os.SEEK_SET)
    return code


def limit_files(size: int) -> None:
    """No file of this process can grow beyond it."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def _writer() -> str:
    """The function of the program that writes, as `path:function`."""
    from foldsmith import files

    package, frame = Path(files.__file__).parent, sys._getframe(1)
    while not _is_of(package, frame.f_code.co_filename):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).relative_to(package)}:{frame.f_code.co_name}"


def _is_of(package: Path, name: str) -> bool:
    return Path(name).is_relative_to(package) and Path(name) != package / "files.py"


def measure_memory(path: str) -> None:
    """Write the largest resident size of this command's process and of its children, in bytes, when it ends.

    The process's own begins anew here: it was forked from one that is large.
    """
    import resource

    from tests.faults.bounds import forget_peak, resident

    def write() -> None:
        children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # of those that it has waited for
        Path(path).write_text(str(max(resident("VmHWM"), children)))

    forget_peak()
    atexit.register(write)


def full_from_the_start() -> None:
    """No file of the process can grow at all: a disk that is full before the command begins."""
    print_through_pipes()
    limit_files(0)

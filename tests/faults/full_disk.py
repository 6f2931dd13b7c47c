"""Hooks, as those of hooks.py, of a disk that is full at a write, after some of its bytes."""

import contextlib
import json
import os
import sys
from pathlib import Path

from tests.faults.hooks import print_through_pipes

FEW = 8  # bytes by which two writes of one file may differ: the length of a number in it


def at_write(record: str, place: str, count: str, share: str) -> None:
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


def at_every_write(record: str, folder: str, last: str) -> None:
    """Before each write let children of this process meet a disk that is full there, after some bytes of the file.

    A line of JSON for each child in `record`: how it ended and what it did to the folder. That is undone, and the
    command itself goes on until its write of number `last`.
    """
    from foldsmith import files

    real, left, old = files.fail, [int(last)], _contents(Path(folder))

    def forking(name):
        if name == "write.renamed":  # from now on the new one is the old one
            old.pop(sys._getframe(1).f_locals["path"].absolute(), None)
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
                file.write(json.dumps(note | _undone(Path(folder), before, old)) + "\n")
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


def _undone(folder: Path, before: dict[Path, bytes], old: dict[Path, bytes]) -> dict[str, list[str]]:
    """The temporary files that are there, and the others that are not as they were; makes all as it was.

    Args:
        before: what was there when the disk became full.
        old: what was there when the command began, but for what it has written anew since.
    """
    after = _contents(folder)
    for path in before.keys() | after.keys():
        if path not in before:
            path.unlink()
        elif before[path] != after.get(path):
            path.write_bytes(before[path])
    wanted = before | old
    changed = {str(path) for path in wanted.keys() | after.keys() if wanted.get(path) != after.get(path)}
    left = [str(path) for path in after if path.suffix == ".tmp"]
    return {"left": left, "changed": sorted(path for path in changed if not path.endswith(".tmp"))}


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


def from_the_start() -> None:
    """No file of the process can grow at all: a disk that is full before the command begins."""
    print_through_pipes()
    limit_files(0)

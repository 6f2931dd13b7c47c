"""Runs a script as an offline kernel would: read-only inputs, no network. Not imported: check.py starts it by its path.

sandbox.py REPORT INPUTS NETWORK SCRIPT [ARGUMENT ...]     INPUTS is a JSON list of folders and files
"""

import atexit
import errno
import json
import os
import re
import resource
import runpy
import sys
from pathlib import Path
from typing import Any

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "os.link",
    "os.symlink",
    "os.utime",
}
_LOOKUPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo"}
_CONNECTS = {"socket.connect", "socket.sendto", "socket.sendmsg"}


class Rules:
    """An audit hook: writing below the inputs fails as on a read-only disk, connecting as without a network.

    It sees Python's own calls alone, and no folder that a path is relative to but the working one: check.py gives the
    script copies, and compares them afterwards.
    """

    def __init__(self, inputs: list[str], network: bool) -> None:
        self.inputs = tuple(os.path.realpath(path) for path in inputs)
        self.network = network

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            if isinstance(args[2], int) and args[2] & _WRITES:
                self._check_path(args[0])
        elif event in _CHANGES:
            for arg in args:
                self._check_path(arg)
        elif not self.network and (event in _LOOKUPS or (event in _CONNECTS and _is_remote(args))):
            raise OSError(errno.ENETUNREACH, "a kernel has no network")

    def _check_path(self, path: object) -> None:
        if not isinstance(path, str | bytes | os.PathLike):
            return
        real = os.path.realpath(os.fsdecode(path))
        for place in self.inputs:
            if real == place or real.startswith(place + os.sep):
                raise OSError(errno.EROFS, "a kernel's inputs are read-only", real)


def _is_remote(args: tuple[Any, ...]) -> bool:
    """Whether an address is one of the internet: those of Unix sockets are text."""
    return len(args) > 1 and isinstance(args[1], tuple)


def _peak() -> int:
    """Bytes of memory of the largest process so far, this one or one that it started and has waited for."""
    own = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return 1024 * max(int(own.group(1)) if own else 0, others)


def _report(path: Path, process: int) -> None:
    if os.getpid() == process:  # a forked child comes here, too
        path.write_text(json.dumps({"peak": _peak()}), encoding="utf-8")


def main() -> None:
    report, inputs, network, script, *words = sys.argv[1:]
    sys.addaudithook(Rules(json.loads(inputs), network == "network"))
    sys.argv = [script, *words]
    atexit.register(_report, Path(report), os.getpid())
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()

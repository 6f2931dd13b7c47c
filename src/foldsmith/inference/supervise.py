"""A parent that lives on when inference dies: whether a kernel failed is decided by the submission that stands."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from foldsmith.signals import end_with_the_parent, handle_signals


def decrypted_prefix(process: int | str) -> str:
    """How the names of a process's folders of decrypted weights begin: who outlives it removes them."""
    return f"foldsmith-weights-{process}-"


def supervise(work: Callable[[Callable[[], None]], None], strict: bool) -> None:
    """Run `work` in a child process. This one ends well once a valid submission stands, whatever ended the child.

    Args:
        work: calls its argument once a valid submission stands. It goes on in the child, and returns there.
        strict: end with the child's exit code in any case.

    Raises:
        SystemExit: in the parent, with the child's code: no submission stands, or `strict`, or 130 after Ctrl-C.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    # No signal comes before both processes know what to do with it.
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setpgid(0, 0)  # the parent passes signals on, so that each comes once
        end_with_the_parent()  # nobody is left to wait for it
        handle_signals()
        signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
        work(lambda: _tell(writer))
        return
    os.close(writer)
    interrupted = False

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = interrupted or number == signal.SIGINT
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    for folder in Path(tempfile.gettempdir()).glob(decrypted_prefix(child) + "*"):  # it was killed
        shutil.rmtree(folder, ignore_errors=True)
    os.set_blocking(reader, False)  # a process that the child has left behind may hold the other end
    try:
        stands = os.read(reader, 1) == b"1"
    except BlockingIOError:
        stands = False
    _end(code if code >= 0 else 128 - code, stands, strict or interrupted)


def _end(code: int, stands: bool, strict: bool) -> None:
    """End this process as the child's code, 128 + the number of a signal, and the submission ask for."""
    if code == 0:
        return
    if not stands:
        if code > 128:
            print(f"error: inference was killed by signal {code - 128}; no submission stands", file=sys.stderr)
        sys.exit(code)
    if strict:
        sys.exit(code)
    why = "the deadline came" if code == 5 else f"INFERENCE FAILED with exit code {code}; see above"
    if code > 128:
        why = f"INFERENCE WAS KILLED by signal {code - 128}" + (" (out of memory?)" if code == 137 else "")
    line = "=" * 100
    print(
        f"{line}\n{why}. The submission that was written before is valid, so this is exit code 0.\n{line}",
        file=sys.stderr,
    )


def _tell(writer: int) -> None:
    os.write(writer, b"1")

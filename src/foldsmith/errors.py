"""The one error class for users, the exit codes, and the one place that turns both into an ending process.

Exit codes (documented in docs/design.md, section 6):
    0 done    2 config, data or usage    3 environment (disk, memory, network)    4 a corrupt or untrusted artefact
    5 the deadline came and a partial but valid result was written    130 / 143 ended by SIGINT / SIGTERM
"""

import _thread
import contextlib
import difflib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import FrameType

from foldsmith.malloc import keep_freed_memory

# A disk that is full, over its quota, read-only or not ours, or a path that leads through a file.
WRITE_ERRNOS = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,  # a folder is to be made where a file is
}

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "CUDNN_STATUS_ALLOC_FAILED", "CUBLAS_STATUS_ALLOC_FAILED")

_PATIENCE = 7.0  # seconds in which a program that was told to stop may clean up
_RETRY = 0.05  # seconds between looks whether an import has ended

EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_UNTRUSTED = 4
EXIT_DEADLINE = 5


class UserError(Exception):
    """Something that the user can mend. Printed without a traceback as `file:line: key: message`, then the hint.

    Args:
        message: what happened, with the offending value.
        hint: what to do about it.
        file, line, key: where it happened; each optional. Lines count from 1.
        code: the exit code of the process.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        file: object = None,
        line: int | None = None,
        key: str | None = None,
        code: int = EXIT_USAGE,
    ) -> None:
        super().__init__(message)
        self.message, self.hint, self.file, self.line, self.key, self.code = message, hint, file, line, key, code

    def __str__(self) -> str:
        place = "" if self.file is None else f"{self.file}:{self.line}: " if self.line else f"{self.file}: "
        key = f"{self.key}: " if self.key else ""
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{place}{key}{self.message}{hint}"


def run(main: Callable[[Sequence[str] | None], None]) -> None:
    """Run a command's main() as a process: user errors and signals become messages and exit codes."""
    signals = handle_signals()
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no accents is no reason to fail
    try:
        main(None)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if signals.came:  # whatever a library made of the end that it was asked for
            sys.exit(128 + signals.came)
        sys.exit(_end_of(error))
    finally:
        signals.over = True


def _end_of(error: Exception) -> int:
    """Say what happened, to a user who can do something about it; returns the exit code. The rest is raised again."""
    if isinstance(error, BrokenPipeError):  # `... | head` has read enough; say nothing, not even at Python's own flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    known = as_user_error(error)
    if known is None:
        raise error
    print(f"error: {known}", file=sys.stderr)
    return known.code


def as_user_error(error: Exception) -> UserError | None:
    """The same for the user: a UserError as it is, a full disk or memory as one; None: nobody expects this error."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OSError) and error.errno in WRITE_ERRNOS:
        from foldsmith.files import unnamed_failure  # which imports this module

        return unnamed_failure(error)
    # torch's own classes can't be named here: importing torch takes seconds
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    if full or isinstance(error, MemoryError):
        hint = "a smaller batch_size or input_size needs less memory"
        return UserError(str(error) or "out of memory", hint=hint, code=EXIT_ENVIRONMENT)
    return None


@dataclass
class Signals:
    """What became of SIGTERM and Ctrl-C in a process."""

    came: int | None = None
    over: bool = False  # the program has ended: Python takes it apart, which no signal is to disturb


def handle_signals() -> Signals:
    """SIGTERM and Ctrl-C unwind this process; a second one ends it at once, and so does waiting for `_PATIENCE`.

    One that comes in the middle of an import waits for its end: libraries make other errors of it, or abort. In a
    forked child a signal ends it at once, unless it calls this, too.
    """
    process, state, again = os.getpid(), Signals(), threading.Event()

    def repeat(signum: int) -> None:
        again.set()
        _thread.interrupt_main(signal.Signals(signum))

    def handle(signum: int, frame: FrameType | None) -> None:
        if os.getpid() != process:  # a data loading process that has only just begun: its parent tells the user
            os._exit(128 + signum)
        if state.over:
            signal.signal(signum, signal.SIG_DFL)  # for a second one
            return
        if state.came is None:
            state.came = signum
            _say_and_hurry(signum)
        elif not again.is_set():
            os._exit(128 + signum)
        again.clear()
        if _imports(frame):
            _in_background(_RETRY, repeat, signum)
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + signum)

    signal.signal(signal.SIGTERM, handle)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored below nohup
        signal.signal(signal.SIGINT, handle)
    return state


def _say_and_hurry(signum: int) -> None:
    """What the first signal does: its words, and a limit to the time that cleaning up may take."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises when loading processes end, too
    _in_background(_PATIENCE, os._exit, 128 + signum)
    word = "interrupted" if signum == signal.SIGINT else "terminated"
    # At once, for cleaning up may hang; by the system, for the signal may have come in the middle of a print.
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"{word}; what was finished is kept\n".encode())


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported in this frame."""
    while frame is not None and frame.f_code is not run.__code__:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _in_background(seconds: float, call: Callable[[int], object], number: int) -> None:
    timer = threading.Timer(seconds, call, [number])
    timer.daemon = True
    timer.start()


def shown(value: object, longest: int = 200) -> str:
    """A value as a message shows it: cut where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[:longest]}... ({len(text)} characters)"


def did_you_mean(value: str, known: Iterable[str], *, show: int = 12) -> str:
    """A sentence that names the nearest of `known`; where none is near, all of them (at most `show`).

    >>> did_you_mean("focl", ["bce", "focal"])
    "did you mean 'focal'?"
    """
    names = list(known)
    by_lower = {name.lower(): name for name in reversed(names)}  # of names that differ in case only the first
    near = [by_lower[name] for name in difflib.get_close_matches(value.lower(), by_lower, n=3, cutoff=0.6)]
    if near:
        return "did you mean " + " or ".join(repr(name) for name in near) + "?"
    listed = ", ".join(names[:show]) + (f", ... ({len(names)} in all)" if len(names) > show else "")
    return f"valid: {listed}"

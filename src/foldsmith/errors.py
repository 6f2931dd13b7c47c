"""The one error class for users, the exit codes, and the one place that turns both into an ending process.

Exit codes (documented in docs/design.md, section 6):
    0 done    2 config, data or usage    3 environment (disk, memory, network)    4 a corrupt or untrusted artefact
    5 the deadline came and a partial but valid result was written    130 / 143 ended by SIGINT / SIGTERM
"""

import atexit
import difflib
import errno
import io
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn

from foldsmith.malloc import keep_freed_memory
from foldsmith.signals import handle_signals

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
    """Run a command's main() as this process, and end the process."""
    code: int | str | None = None
    try:
        guarded(main)
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    _end(code or 0)


def _end(code: int) -> NoReturn:
    """End as Python does, but do not take apart all that was imported: with torch that is a second, and 130 MB."""
    if "IPython" in sys.modules:  # a notebook goes on
        sys.exit(code)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None and not stream.closed:
                stream.flush()
        except OSError as error:  # a full disk, a pipe that nobody reads
            code = code or _end_of(error)
    os._exit(code)


def guarded(main: Callable[[Sequence[str] | None], None]) -> None:
    """Call a command's main(); user errors and signals become messages and SystemExit with their codes."""
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
    if signals.came:  # too late to matter; but it was answered
        sys.exit(128 + signals.came)


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
    if isinstance(error, FileNotFoundError) and str(error.strerror).startswith("No usable temporary directory"):
        hint = "free some space in one of them, or let TMPDIR name a folder that can be written"
        return UserError(f"no temporary file can be written: {error.strerror}", hint=hint, code=EXIT_ENVIRONMENT)
    # torch's own classes can't be named here: importing torch takes seconds
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    if full or isinstance(error, MemoryError):
        hint = "a smaller batch_size or input_size needs less memory"
        return UserError(str(error) or "out of memory", hint=hint, code=EXIT_ENVIRONMENT)
    return None


def shown(value: object, longest: int = 200) -> str:
    """A value as a message shows it: cut where it is long."""
    return cut(repr(value), longest)


def cut(text: str, longest: int = 200) -> str:
    """A text that a file or a library wrote, as a message shows it: cut where it is long."""
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

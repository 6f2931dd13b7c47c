"""SIGTERM and Ctrl-C: how a program that is told to stop ends, quickly and with its words."""

import _thread
import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

_PATIENCE = 7.0  # seconds in which a program that was told to stop may clean up
_RETRY = 0.05  # seconds between looks whether an import has ended
_WAKE = (0.05, 0.2, 1.0)  # seconds after a signal, each after the last, at which the main thread is woken


@dataclass
class Signals:
    """What became of SIGTERM and Ctrl-C in a process."""

    came: int | None = None
    raised: BaseException | None = None  # for it
    over: bool = False  # the program has ended: what is called at exit is not to be disturbed


def handle_signals() -> Signals:
    """SIGTERM and Ctrl-C unwind this process; a second one ends it at once, and so does waiting for `_PATIENCE`.

    One that comes in the middle of an import waits for its end: libraries make other errors of it, or abort. In a
    forked child a signal ends it at once, unless it calls this, too.
    """
    process, state, again = os.getpid(), Signals(), threading.Event()
    caller = sys._getframe(1).f_code

    def repeat(signum: int) -> None:
        again.set()
        _thread.interrupt_main(signal.Signals(signum))

    def ignored(unraisable: Any) -> None:  # nobody listens in a __del__, or in what is called at a fork
        if unraisable.exc_value is state.raised is not None:
            assert state.came is not None
            _in_background(_RETRY, repeat, state.came)
        else:
            others(unraisable)

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
        if _imports(frame, caller):
            _in_background(_RETRY, repeat, signum)
        else:
            state.raised = KeyboardInterrupt() if signum == signal.SIGINT else SystemExit(128 + signum)
            raise state.raised

    others, sys.unraisablehook = sys.unraisablehook, ignored
    _wake_the_main_thread()
    signal.signal(signal.SIGTERM, handle)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # it is ignored below nohup
        signal.signal(signal.SIGINT, handle)
    return state


def end_with_the_parent() -> None:
    """Have this process told to end when its parent dies, even where that is killed. Does nothing but on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _say_and_hurry(signum: int) -> None:
    """What the first signal does: its words, and a limit to the time that cleaning up may take."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler raises when loading processes end, too
    _in_background(_PATIENCE, os._exit, 128 + signum)
    word = "interrupted" if signum == signal.SIGINT else "terminated"
    # At once, for cleaning up may hang; by the system, for the signal may have come in the middle of a print.
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"{word}; what was finished is kept\n".encode())


def _wake_the_main_thread() -> None:
    """Wake it after each signal, for it may have missed one.

    Python calls handlers in the main thread, between two steps of it. It looks for signals before it gives the
    interpreter away to wait for a lock, and a wait that a signal interrupts looks again. One that comes in between, or
    to another thread, would be handled only after the wait, which may have no end (an image on a disk that hangs).
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)  # written at once, whatever thread the signal came to
    signal.signal(signal.SIGURG, lambda number, frame: None)  # to interrupt is all that it does
    main = threading.main_thread().ident
    assert main is not None

    def watch() -> None:
        while True:
            if os.read(reader, 1)[0] in (signal.SIGTERM, signal.SIGINT):
                for seconds in _WAKE:
                    time.sleep(seconds)
                    signal.pthread_kill(main, signal.SIGURG)

    threading.Thread(target=watch, name="signals", daemon=True).start()


def _imports(frame: FrameType | None, outermost: CodeType) -> bool:
    """Whether a module is being imported in this frame, below the outermost one."""
    while frame is not None and frame.f_code is not outermost:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _in_background(seconds: float, call: Callable[[int], object], number: int) -> None:
    timer = threading.Timer(seconds, call, [number])
    timer.daemon = True
    timer.start()

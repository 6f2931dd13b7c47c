"""Signals of a process of its own: in imports, in waits, after the end. Those of runs: tests/faults/test_signals.py."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTS = """
import os, signal, sys, threading
from foldsmith.errors import run
signal.signal(signal.SIGINT, signal.default_int_handler)
def main(argv):
    import slow
    print("goes on", flush=True)
    threading.Event().wait()
run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_an_import_waits_for_its_end(tmp_path: Path, number: int, code: int) -> None:
    """Libraries make errors of their own of what is raised in the middle of their import, torch even aborts."""
    (tmp_path / "slow.py").write_text(
        f"import os, time\ntry:\n    os.kill(os.getpid(), {int(number)})\n    time.sleep(0.2)\n"
        "except BaseException as error:\n    raise RuntimeError('a broken import') from error\n"
        "print('imported', flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert (done.returncode, done.stderr) == (code, f"{word}; what was finished is kept\n")
    assert done.stdout.startswith("imported\n")


def test_what_a_library_makes_of_a_signal_is_not_shown() -> None:
    source = (
        "import os, signal\nfrom foldsmith.errors import run\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def main(argv):\n    try:\n        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n        raise RuntimeError('made of it')\nrun(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "interrupted; what was finished is kept\n")


def test_a_signal_that_comes_after_the_end_disturbs_nothing() -> None:
    source = (
        "import atexit, os, signal\nfrom foldsmith.errors import run\n"
        "@atexit.register\ndef last():\n    os.kill(os.getpid(), signal.SIGTERM)\n    print('cleaned up')\n"
        "run(lambda argv: print('done'))\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\ncleaned up\n", "")


def test_a_signal_that_nobody_is_told_of_ends_it_all_the_same() -> None:
    """stderr is a pipe that nobody reads any more, and the program forgives errors of files."""
    source = (
        "import os, signal\nfrom foldsmith.errors import run\n"
        "reader, writer = os.pipe()\nos.close(reader)\nos.dup2(writer, 2)\n"
        "def main(argv):\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    except OSError:\n        print('goes on')\nrun(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (143, "")


MISSED = """
import os, signal, threading, time
from foldsmith.errors import run
signal.signal(signal.SIGINT, signal.default_int_handler)
def main(argv):
    lock = threading.Lock()
    lock.acquire()
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    threading.Thread(target=other, daemon=True).start()
    lock.acquire()
def other():
    time.sleep(0.3)  # so that the main thread waits; where it does not yet, any program passes
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), min({number}))
run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_the_waiting_main_thread_missed_wakes_it(number: int, code: int) -> None:
    """It came to another thread, as far as the main one is concerned: a moment before its wait is the same to it."""
    source = MISSED.replace("{number}", f"{{{int(number)}}}")
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert (done.returncode, done.stderr) == (code, f"{word}; what was finished is kept\n")


DEAF = """
import os, signal, time
from foldsmith.errors import run
signal.signal(signal.SIGINT, signal.default_int_handler)
class Deaf:
    def __del__(self):
        os.kill(os.getpid(), {number})
def at_fork():
    os.kill(os.getpid(), {number})
def main(argv):
    {line}
    print("goes on", flush=True)
    time.sleep(60)
run(main)
"""
FORK = "os.register_at_fork(after_in_parent=at_fork); os.fork() or os._exit(0)"


@pytest.mark.parametrize("line", ["Deaf()", FORK], ids=["del", "fork"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_where_python_ignores_exceptions_is_raised_again(number: int, code: int, line: str) -> None:
    """Without a traceback, too: a data loading process is forked while a logger's lock is given back."""
    source = DEAF.format(number=int(number), line=line)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert (done.returncode, done.stdout, done.stderr) == (code, "goes on\n", f"{word}; what was finished is kept\n")


def test_what_others_ignore_is_told_as_before() -> None:
    source = (
        "from foldsmith.errors import run\n"
        "class Broken:\n    def __del__(self):\n        raise ValueError('of a del')\n"
        "def main(argv):\n    Broken()\n    print('done')\nrun(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "done\n") and done.stderr.endswith("ValueError: of a del\n")


ENDS = """
import atexit, sys, threading, time
from foldsmith.errors import run
class Kept:
    def __del__(self):
        print("taken apart")
kept = Kept()
atexit.register(print, "at exit")
def main(argv):
    threading.Thread(target=lambda: (time.sleep(0.1), print("a thread"))).start()
    print("main", end="; ")
    {last}
run(main)
print("not reached")
"""


@pytest.mark.parametrize(
    ("last", "code", "words"),
    [("pass", 0, ""), ("sys.exit('no')", 1, "no\n"), ("sys.exit(7)", 7, ""), ("sys.exit()", 0, "")],
)
def test_the_end_waits_for_threads_and_calls_what_is_registered_but_takes_nothing_apart(last, code, words) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS.format(last=last)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "main; a thread\nat exit\n", words)


def test_a_notebook_goes_on() -> None:
    source = "import sys\nsys.modules['IPython'] = sys\nfrom foldsmith.errors import run\n"
    source += "try:\n    run(lambda argv: None)\nexcept SystemExit as end:\n    print(end.code)\n"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n", "")


def test_words_that_a_full_disk_does_not_take_are_an_error() -> None:
    with open("/dev/full", "w") as full:
        source = "from foldsmith.errors import run\nrun(lambda argv: print('x'))\n"
        done = subprocess.run(
            [sys.executable, "-c", source], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert done.returncode == 3 and "No space left on device" in done.stderr and "Traceback" not in done.stderr

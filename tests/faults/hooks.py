"""What a command of the warm process may be made to do first: faults that no failpoint of the program has."""

import atexit
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

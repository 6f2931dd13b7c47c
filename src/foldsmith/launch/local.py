"""The folds of experiments on this machine: one after the other here, or a queue of processes over its devices."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from foldsmith.errors import UserError
from foldsmith.launch.progress import Job, Progress
from foldsmith.signals import end_with_the_parent

POLL = 0.2  # seconds
PATIENCE = 10.0  # seconds in which a process that is told to stop has ended
LAST_LINES = 12  # of a failed process's output


@dataclass(frozen=True)
class Slot:
    """A place where one process runs at a time."""

    environment: dict[str, str]  # what the process finds beside this one's
    cores: frozenset[int]


@dataclass(frozen=True)
class Command:
    """A process to run: its words, and the file that its output is added to."""

    words: Sequence[str]
    output: Path


def slots_of(device: torch.device, per_device: int) -> list[Slot]:
    """`per_device` places on each GPU that this process sees, or on the CPU. The cores are dealt out to them."""
    gpus: list[dict[str, str]] = [{}]
    if device.type == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
        gpus = [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    environments = gpus * per_device
    cores = sorted(os.sched_getaffinity(0))
    return [
        Slot(environment, frozenset(cores[number :: len(environments)] or [cores[number % len(cores)]]))
        for number, environment in enumerate(environments)
    ]


def run_queue(jobs: Sequence[Job], commands: Sequence[Command], slots: Sequence[Slot]) -> None:
    """Run a process for each job, each slot one at a time, until all have ended.

    A failed one leaves the others alone. When this process is to end, so are they, with time to save their state.

    Raises:
        UserError: when some failed.
    """
    progress = Progress(jobs)
    waiting, free = list(zip(jobs, commands, strict=True)), list(slots)
    running: list[_Running] = []
    try:
        while waiting or running:
            while waiting and free:
                running.append(_Running(*waiting.pop(0), free.pop(0)))
            for ended in [process for process in running if process.ended()]:
                running.remove(ended)
                free.append(ended.slot)
            progress.show()
            time.sleep(POLL)
    finally:
        _end(running)
    progress.raise_failures()


class _Running:
    """A job's process."""

    def __init__(self, job: Job, command: Command, slot: Slot) -> None:
        self.job, self.command, self.slot = job, command, slot
        job.state = "running"
        command.output.parent.mkdir(parents=True, exist_ok=True)
        self.begin = command.output.stat().st_size if command.output.exists() else 0
        mine = os.sched_getaffinity(0)
        os.sched_setaffinity(0, slot.cores)  # inherited: what counts cores there counts these
        try:
            with open(command.output, "ab") as log:
                environment = os.environ | slot.environment
                self.process = subprocess.Popen(
                    command.words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    preexec_fn=end_with_the_parent,  # else it holds its fold, and the same command is refused
                )
        finally:
            os.sched_setaffinity(0, mine)

    def ended(self) -> bool:
        """Whether it is over; notes how in the job."""
        code = self.process.poll()
        if code is None:
            return False
        if code == 0:
            self.job.state = "finished"
        else:
            how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
            self.job.fail(f"{how}; the end of {self.command.output}:\n{self._last_lines()}", code if code > 0 else 1)
        return True

    def _last_lines(self) -> str:
        with open(self.command.output, "rb") as file:
            file.seek(self.begin)
            lines = file.read().decode("utf-8", "replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-LAST_LINES:])


def _end(running: Sequence[_Running]) -> None:
    """End what still runs: this process was asked to."""
    for process in running:
        process.process.terminate()
    for process in running:
        try:
            process.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.process.kill()


def check_per_device(number: int) -> None:
    """Refuse a --parallel-folds that is no number of folds."""
    if number < 1:
        raise UserError(f"expected a number from 1 up, got {number}", key="--parallel-folds")

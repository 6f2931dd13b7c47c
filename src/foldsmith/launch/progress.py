"""One table of what a launcher's jobs are doing, and the end of the run when some of them failed."""

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from foldsmith.errors import UserError
from foldsmith.training.job import FoldJob
from foldsmith.training.stages import stages_of


@dataclass
class Job:
    """A row of the table. The launcher sets `state`."""

    name: str
    detail: Callable[[], str] = str  # what is known of it at this moment
    state: str = "waiting"  # waiting | running | finished | failed
    failure: UserError | None = None

    def fail(self, message: str, code: int) -> None:
        self.state, self.failure = "failed", UserError(message, code=code)


class Progress:
    """The table: on a terminal it is drawn anew where it stands, elsewhere a line is written for a row that changed."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self._shown: list[str] = []

    def show(self) -> None:
        width = max(len(job.name) for job in self.jobs)
        lines = [f"{job.name:{width}}  {job.state:8}  {job.detail()}".rstrip() for job in self.jobs]
        if lines == self._shown:
            return
        if sys.stdout.isatty():
            up = f"\x1b[{len(self._shown)}A" if self._shown else ""
            print(up + "\n".join(f"\x1b[2K{line}" for line in lines), flush=True)
        else:
            old = self._shown or [""] * len(lines)
            print("\n".join(line for line, before in zip(lines, old, strict=True) if line != before), flush=True)
        self._shown = lines

    def raise_failures(self) -> None:
        """Raise one error for all jobs that failed; its code is the first one's."""
        failed = [(job.name, job.failure) for job in self.jobs if job.failure is not None]
        if failed:
            listed = "\n".join(f"  {name}: {error.message}" for name, error in failed)
            raise UserError(
                f"{len(failed)} of {len(self.jobs)} jobs failed\n{listed}",
                hint="the same command does what is left",
                code=failed[0][1].code,
            )


def training_job(job: FoldJob) -> Job:
    """The row of a fold in training. Its files say how far it is, wherever it is trained."""
    epochs, metrics = sum(stage.epochs for stage in stages_of(job.config)), job.run.fold(job.fold) / "metrics.csv"

    def detail() -> str:
        try:
            with open(metrics, encoding="utf-8", newline="") as file:
                last = list(csv.DictReader(file))[-1]
        except (FileNotFoundError, IndexError):
            return ""
        return f"epoch {last['epoch']}/{epochs}  {job.config.metric} {float(last[job.config.metric]):.4f}"

    return Job(f"{job.config.name} fold {job.fold}", detail)

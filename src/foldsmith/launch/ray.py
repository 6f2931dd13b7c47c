"""Folds, out-of-fold predictions and parts of an ensemble's inference as tasks of a Ray cluster.

Ray decides where a task runs, and runs it again when its worker or its node is lost: a fold goes on from its last
checkpoint. All nodes see the working folder, the data and the runs under the same paths.
"""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError

from foldsmith.config import Config
from foldsmith.errors import EXIT_ENVIRONMENT, UserError, as_user_error
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import pick_device, pipeline_of, predict
from foldsmith.launch.progress import Job, Progress
from foldsmith.malloc import keep_freed_memory
from foldsmith.metrics import Probabilities
from foldsmith.models.weights import config_of, load_model, read_header
from foldsmith.training.job import FoldJob
from foldsmith.training.oof import predict_oof
from foldsmith.training.run import open_experiment, train_fold

Result = TypeVar("Result")

RETRIES = 5  # times that a task is run again after its worker was lost
POLL = 1.0  # seconds between two looks at the folds' files


@dataclass(frozen=True)
class Place:
    """Where a task works and what it may use. Tasks get it as their first argument."""

    folder: Path
    cpus: float
    gpus: float

    def enter(self) -> torch.device:
        """Begin a task: the driver's working folder, a thread for each of its cores, its device."""
        if not self.folder.is_dir():
            raise UserError(
                f"node {socket.gethostname()} does not have this folder",
                file=self.folder,
                hint="share it between nodes",
            )
        os.chdir(self.folder)
        keep_freed_memory()
        torch.set_num_threads(max(1, int(self.cpus)))
        return pick_device("cuda" if self.gpus else "cpu")

    def options(self) -> dict[str, Any]:
        return {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": RETRIES}


@contextmanager
def cluster(address: str | None, gpus: float | None, cpus: float | None) -> Iterator[Place]:
    """Be connected to a Ray cluster while the block lasts; one of this machine alone where no address is given.

    Args:
        gpus, cpus: of each task; None: a GPU where the cluster has some, and one core.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    own: dict[str, Any] = {} if address else {"include_dashboard": False}
    try:
        _knock(address)
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray cluster can be reached: {error}",
            key="--address",
            hint="`ray start --head` makes one; without --address Ray is started here",
            code=EXIT_ENVIRONMENT,
        ) from None
    try:
        known = ray.cluster_resources()
        gpus = float(known.get("GPU", 0) > 0) if gpus is None else gpus
        yield Place(Path.cwd(), 1.0 if cpus is None else cpus, gpus)
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Raise an OSError where nothing listens: Ray would try for minutes."""
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


@dataclass(frozen=True)
class _Failure:
    """A user error on its way from a task to the driver."""

    text: str
    code: int


def _caught(function: Callable[[], Result]) -> Result | _Failure:
    """What the function gives, or the error that it ends with, if it is one for users."""
    try:
        return function()
    except Exception as error:
        known = as_user_error(error)
        if known is None:
            raise
        return _Failure(str(known), known.code)


@ray.remote
def _train(place: Place, config: Config, output: Path, fold: int) -> _Failure | None:
    def train() -> None:
        with open_experiment(config, output=output, device=place.enter(), only_fold=fold, retried=True) as (job,):
            node = ray.get_runtime_context().get_node_id()
            job.say(f"on node {node} ({socket.gethostname()}), process {os.getpid()}")
            train_fold(job)

    return _caught(train)


@ray.remote
def _predict_oof(place: Place, config: Config, weights: Path, output: Path) -> _Failure | None:
    def work() -> None:
        predict_oof(config, [weights], output=output, device=place.enter())

    return _caught(work)


@ray.remote
def _predict_shard(
    place: Place, weights: Path, paths: list[Path], there: int, views: list[str], merge: str
) -> tuple[Probabilities, dict[int, str]] | _Failure:
    """Probabilities of some of the test images, and which of them can't be read."""

    def work() -> tuple[Probabilities, dict[int, str]]:
        device = place.enter()
        seen = sum(path.is_file() for path in paths)
        if seen != there:  # else they would count as unreadable ones
            raise UserError(
                f"node {socket.gethostname()} sees {seen} of {there} test images",
                file=paths[0].parent,
                hint="share them",
            )
        config = config_of(read_header(weights), weights)
        images = DecodedImages(paths, bad_hint=None)
        model = load_model(weights, device)
        return predict(model, images, pipeline_of(config, device), views, weights.name, merge=merge), images.bad

    return _caught(work)


def train_folds(place: Place, folds: Sequence[FoldJob], rows: Sequence[Job]) -> None:
    """Train folds whose runs' folders are made; `rows` are theirs in the table."""
    if not folds:
        return
    task = _train.options(**place.options())
    _follow([task.remote(place, job.config, job.run.output, job.fold) for job in folds], rows)


def predict_weights(place: Place, weights: Sequence[tuple[Config, Path]], output: Path) -> None:
    """Write the OOF files of weights that open_oof has checked; each comes with its resolved config."""
    task = _predict_oof.options(**place.options())
    tasks = [task.remote(place, config, path, output) for config, path in weights]
    _follow(tasks, [Job(f"{path.name} out-of-fold") for _, path in weights])


def _follow(tasks: Sequence[Any], rows: Sequence[Job]) -> None:
    """Show the table until all tasks are done.

    Raises:
        UserError: when some failed.
    """
    progress, waiting = Progress(rows), dict(zip(tasks, rows, strict=True))
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL)
        for task in done:
            row = waiting.pop(task)
            failure = _result(task)
            row.state = "finished"
            if failure is not None:
                row.fail(failure.text, failure.code)
        for row in waiting.values():
            row.state = "running" if row.detail() else row.state
        progress.show()
    progress.raise_failures()


def _result(task: Any) -> Any:
    """What a task gives; a _Failure where it raised what nobody expects, or was lost too often."""
    try:
        return ray.get(task)
    except RayTaskError as error:
        return _Failure(str(error), 1)  # with the task's traceback
    except RayError as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))
        return _Failure(
            f"Ray gave the task up, which it runs again up to {RETRIES} times: {reason}\n  hint: a node without memory "
            "kills its tasks: with more --cpus-per-job it has fewer of them; the same command does what is left",
            EXIT_ENVIRONMENT,
        )


class ShardedPrediction:
    """Predicts with a weights file on many machines: the images are cut into shards, a task each.

    Shards end where batches do, so that every batch is the one that a single process has, and so are its bits.

    Args:
        lanes: weights files that are predicted at the same time.
    """

    def __init__(self, place: Place, lanes: int) -> None:
        self.place = place
        kind, each = ("GPU", place.gpus) if place.gpus else ("CPU", place.cpus)
        at_once = ray.cluster_resources().get(kind, 1.0) / (each or 1.0)
        self.shards = max(1, round(at_once / lanes))

    def __call__(
        self, weights: Path, config: Config, paths: Sequence[Path], views: list[str], merge: str
    ) -> tuple[Probabilities, dict[int, str]]:
        """Probabilities of all images, and the rows of those that can't be read with the reasons."""
        batches = -(-len(paths) // config.test.batch_size)
        ends = [
            min(len(paths), batches * part // self.shards * config.test.batch_size) for part in range(self.shards + 1)
        ]
        shards = [slice(begin, end) for begin, end in zip(ends, ends[1:], strict=False) if end > begin]
        task = _predict_shard.options(**self.place.options())
        tasks = []
        for shard in shards:
            images = [path.resolve() for path in paths[shard]]
            there = sum(path.is_file() for path in images)
            tasks.append(task.remote(self.place, weights.resolve(), images, there, views, merge))
        parts: list[Probabilities] = []
        bad: dict[int, str] = {}
        for shard, found in zip(shards, map(_result, tasks), strict=True):
            if isinstance(found, _Failure):
                raise UserError(found.text, code=found.code)
            parts.append(found[0])
            bad |= {shard.start + row: reason for row, reason in found[1].items()}
        return np.concatenate(parts), bad

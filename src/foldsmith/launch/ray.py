"""Folds, out-of-fold predictions and parts of an ensemble's inference as tasks of a Ray cluster.

Ray decides where a task runs, and runs it again when its worker or its node is lost: a fold goes on from its last
checkpoint. All nodes see the working folder, the data and the runs under the same paths.
"""

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from foldsmith.config import Config
from foldsmith.errors import EXIT_ENVIRONMENT, UserError, as_user_error
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.launch.cluster import RETRIES, Nodes, Place
from foldsmith.launch.progress import Job, Progress
from foldsmith.metrics import Probabilities
from foldsmith.models.header import config_of
from foldsmith.models.weights import load_model, read_header
from foldsmith.training.job import FoldJob
from foldsmith.training.oof import predict_oof
from foldsmith.training.run import open_experiment, train_fold

Result = TypeVar("Result")

POLL = 1.0  # seconds between two looks at the folds' files


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


@ray.remote(num_cpus=0)
class _Begun:
    """Which tasks have begun: their numbers, and the nodes that they are on. It lives on the driver's node."""

    def __init__(self) -> None:
        self.nodes: dict[int, str] = {}

    def note(self, number: int, node: str) -> None:
        self.nodes[number] = node

    def all(self) -> dict[int, str]:
        return self.nodes


@dataclass(frozen=True)
class _Row:
    """Where a task says that it has begun."""

    begun: Any  # the handle of a _Begun
    number: int

    def begin(self) -> None:
        self.begun.note.remote(self.number, ray.get_runtime_context().get_node_id())


@ray.remote
def _train(place: Place, row: _Row, config: Config, output: Path, fold: int) -> _Failure | None:
    def train() -> None:
        row.begin()
        where: dict[str, Any] = {"output": output, "device": place.enter(), "only_fold": fold, "cores": place.cores}
        with open_experiment(config, **where, retried=True) as (job,):
            node = ray.get_runtime_context().get_node_id()
            job.say(f"on node {node} ({socket.gethostname()}), process {os.getpid()}")
            train_fold(job)

    return _caught(train)


@ray.remote
def _predict_oof(place: Place, row: _Row, config: Config, weights: Path, output: Path) -> _Failure | None:
    def work() -> None:
        row.begin()
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

    def start(job: FoldJob, row: _Row) -> Any:
        return task.remote(place, row, job.config, job.run.output, job.fold)

    _follow(place, [partial(start, job) for job in folds], rows)


def predict_weights(place: Place, weights: Sequence[tuple[Config, Path]], output: Path) -> None:
    """Write the OOF files of weights that open_oof has checked; each comes with its resolved config."""
    task = _predict_oof.options(**place.options())

    def start(config: Config, path: Path, row: _Row) -> Any:
        return task.remote(place, row, config, path, output)

    rows = [Job(f"{path.name} out-of-fold") for _, path in weights]
    _follow(place, [partial(start, config, path) for config, path in weights], rows)


def _follow(place: Place, starts: Sequence[Callable[[_Row], Any]], rows: Sequence[Job]) -> None:
    """Start the tasks, and show the table until all are done.

    Raises:
        UserError: when some failed.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    begun = _Begun.options(scheduling_strategy=here).remote()  # type: ignore[attr-defined]
    progress, nodes = Progress(rows), Nodes(place)
    waiting = {start(_Row(begun, number)): number for number, start in enumerate(starts)}
    while waiting:
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL)
        for task in done:
            row = rows[waiting.pop(task)]
            failure = _result(task)
            row.state = "finished"
            if failure is not None:
                row.fail(failure.text, failure.code)
        there, on = nodes.look(), ray.get(begun.all.remote())
        for number in waiting.values():  # one whose node is lost waits for another
            rows[number].state = "running" if on.get(number) in there else "waiting"
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
        self.place, self.device = place, torch.device("cuda" if place.gpus else "cpu")
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
        nodes = Nodes(self.place)
        for shard, started in zip(shards, tasks, strict=True):
            while not ray.wait([started], timeout=POLL)[0]:
                nodes.look()
            found = _result(started)
            if isinstance(found, _Failure):
                raise UserError(found.text, code=found.code)
            parts.append(found[0])
            bad |= {shard.start + row: reason for row, reason in found[1].items()}
        return np.concatenate(parts), bad

"""Fitting a blend to some of the images: the objective that suits the metric, and the best point that was found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from foldsmith.ensemble.entries import Entries, choose_floor, read_entries
from foldsmith.ensemble.hunt import SPAN
from foldsmith.ensemble.members import OofData
from foldsmith.ensemble.objective import DenseObjective, Objective, Point, Weights, blended, normalized
from foldsmith.ensemble.optimizers import run
from foldsmith.ensemble.threads import in_threads
from foldsmith.metrics import Metric, Probabilities

WORKING = 0.65  # of the way from the proved floor to the threshold of equal weights: the search's own floor

SMALL = 300_000  # so few entries need no second, higher floor


@dataclass
class Problem:
    """The data of a search, and how blends of it are scored."""

    data: OofData
    metric: Metric
    entries: Entries | None  # from the proved floor up; None where the metric needs the whole matrix
    working: Entries | None  # from the search's floor up
    start: Point  # equal weights
    _exact: Objective | None = None

    def objective(
        self, images: NDArray[np.bool_] | None = None, members: Sequence[int] | None = None
    ) -> Objective | DenseObjective:
        """What to maximise over some images (bool, all of them by default) and some members (all by default)."""
        if self.working is not None:
            part = self.working if images is None else self.working.of_images(images)
            part = part if members is None else part.of_members(members)
            return Objective(part, self.metric.beta, self.metric.by_class)
        chosen = range(len(self.data.members)) if members is None else members
        matrices = [self.data.members[index].probabilities for index in chosen]
        if images is None:
            return DenseObjective(matrices, self.data.targets, self.metric)
        return DenseObjective([matrix[images] for matrix in matrices], self.data.targets[images], self.metric)

    def uniform(self, objective: Objective | DenseObjective) -> Point:
        """Equal weights of an objective's members."""
        return self.settled(objective, normalized(np.ones(objective.members)))

    def settled(self, objective: Objective | DenseObjective, weights: Weights) -> Point:
        """Weights at their best threshold; for F-beta on many entries the best one in reach of equal weights'."""
        if isinstance(objective, Objective) and objective.values.shape[1] > SMALL:
            assert self.start.threshold is not None
            best = objective.near(weights, self.start.threshold, SPAN / 2)
        else:
            best, _ = objective.best(weights)
        return Point(weights, best.threshold, best.score)

    @property
    def exact(self) -> Objective | DenseObjective:
        """The objective from the proved floor up."""
        if self.entries is None:
            return self.objective()
        if self._exact is None or self._exact.entries is not self.entries:
            self._exact = Objective(self.entries, self.metric.beta, self.metric.by_class)
        return self._exact

    def natural(self, score: float) -> float:
        """A point's score as the metric gives it: losses were negated."""
        return score if self.metric.larger_is_better else -score

    @cached_property
    def singles(self) -> list[Point]:
        """Each member alone, at its best threshold from the proved floor up."""
        objective = self.exact

        def alone(weights: Weights) -> Point:
            best, _ = objective.best(weights)
            return Point(weights, best.threshold, best.score)

        return in_threads(alone, np.eye(len(self.data.members)))

    def only(self, members: Sequence[int]) -> "Problem":
        """The same with fewer members."""
        data = replace(self.data, members=[self.data.members[index] for index in members])
        entries = None if self.entries is None else self.entries.of_members(members)
        working = None if self.working is None else self.working.of_members(members)
        part = Problem(data, self.metric, entries, working, self.start)
        part.start = prove(part, normalized(np.ones(len(members))))
        return part

    def blend(self, weights: Weights) -> Probabilities:
        """A blend of all images and classes, (images, classes), summed as inference sums it. Reads the files."""
        result = np.empty(self.data.targets.shape, dtype=np.float32)
        for fold, rows in enumerate(self.data.members[0].rows):
            result[rows] = blended([member.map(fold) for member in self.data.members], weights)
        return result


def pose(data: OofData, metric: Metric) -> Problem:
    """Read the OOF files and choose the objective; says so when it is the slow one."""
    weights = normalized(np.ones(len(data.members)))
    if not metric.thresholded:
        tqdm.write(f"{metric.name} needs the order of all entries: whole matrices are held in memory")
        best, _ = DenseObjective([m.probabilities for m in data.members], data.targets, metric).best(weights)
        return Problem(data, metric, None, None, Point(weights, best.threshold, best.score))
    floor = choose_floor(data, metric.beta, metric.by_class)
    while True:
        entries = read_entries(data, floor)
        best, proved = Objective(entries, metric.beta, metric.by_class).best(weights)
        assert best.threshold is not None
        if proved or floor == data.members[0].lowest:
            working = floor + WORKING * (best.threshold - floor)
            small = len(entries.images) < SMALL
            start = Point(weights, best.threshold, best.score)
            return Problem(data, metric, entries, entries if small else entries.above(working), start)
        floor = lower(floor, data)


def lower(floor: float, data: OofData) -> float:
    """Half of the way down, and in the end all of it."""
    lowest = data.members[0].lowest
    return lowest + (floor - lowest) / 2 if floor - lowest > 1e-3 else lowest


def prove(problem: Problem, weights: Weights) -> Point:
    """Weights at their best threshold of all. Where a lower floor might have a better one, files are read again."""
    while True:
        best, proved = problem.exact.best(weights)
        if proved or problem.entries is None or problem.entries.floor == problem.data.members[0].lowest:
            return Point(weights, best.threshold, best.score)
        problem.entries = read_entries(problem.data, lower(problem.entries.floor, problem.data))


def search_blend(problem: Problem, method: str, seconds: float) -> tuple[Point, dict[str, Point]]:
    """The best blend, its threshold proved, and what every method that ran found.

    A search whose threshold ended at its own floor is run again with a lower one.
    """
    while True:
        found = run(method, problem.objective(), problem.start, seconds)
        point = prove(problem, found[method].weights)
        working, entries = problem.working, problem.entries
        if working is None or entries is None or working.floor <= entries.floor or point.threshold is None:
            return point, found
        if point.threshold > working.floor + 0.1 * (point.threshold - entries.floor):
            return point, found
        problem.working = entries if working is entries else entries.above((working.floor + entries.floor) / 2)

"""What every method of the search has in common: evaluations under a deadline, and the best point met so far."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.objective import DenseObjective, Objective, Point, Weights, normalized

SPAN = 0.1  # of thresholds around the start's that scipy's methods may reach


class OutOfTimeError(Exception):
    """Ends a method whose time is over."""


@dataclass
class Hunt:
    """One method's evaluations of an objective, and the best point it met."""

    objective: Objective | DenseObjective
    best: Point
    deadline: float  # of time.monotonic()
    evaluations: int = field(default=0)

    def score(self, weights: Weights, threshold: float | None) -> float:
        """The score at a point, remembered if it is the best so far.

        Raises:
            OutOfTimeError: the deadline has passed.
        """
        if time.monotonic() > self.deadline:
            raise OutOfTimeError
        self.evaluations += 1
        weights = normalized(weights)
        if isinstance(self.objective, Objective):
            assert threshold is not None
            threshold = max(float(np.float32(threshold)), self.objective.floor)
            score = self.objective.score(weights, threshold)
        else:
            (score, threshold), _ = self.objective.best(weights)
        if score > self.best.score:
            self.best = Point(weights, threshold, score)
        return score

    def loss(self, x: NDArray[np.float64]) -> float:
        """scipy's view: weights, of any sum, and for F-beta the threshold behind them."""
        count = self.objective.members
        return -self.score(x[:count], float(x[count]) if len(x) > count else None)

    def vector(self) -> NDArray[np.float64]:
        """The best point as scipy sees it."""
        return np.append(self.best.weights, [] if self.best.threshold is None else [self.best.threshold])

    def bounds(self) -> list[tuple[float, float]]:
        """Weights in 0..1, the threshold near where it is."""
        near = [] if self.best.threshold is None else [(self.best.threshold - SPAN, self.best.threshold + SPAN)]
        return [(0.0, 1.0)] * self.objective.members + near

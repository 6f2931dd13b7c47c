"""The score of a blend, fast: only entries that can exceed the threshold are kept.

With non-negative weights that sum to one, a blend exceeds a threshold only where at least one member does. So for
thresholds from `floor` up, entries at which no member exceeds the floor can't matter, and most are such.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.file import blend
from foldsmith.metrics import Best, Probabilities, Targets, best_of_entries

DIGITS = 6  # of a weight in the ensemble file
FLOOR = 0.02  # where the search for the best threshold starts

Weights = NDArray[np.float64]


def normalized(weights: Weights) -> Weights:
    """Non-negative weights that sum to one, rounded as the ensemble file keeps them."""
    weights = np.clip(np.nan_to_num(weights), 0, None)
    weights = weights if weights.sum() > 0 else np.ones(len(weights))
    return np.round(weights / weights.sum(), DIGITS)


def in_order(weights: Weights) -> list[int]:
    """Indices of the members that take part, the heaviest first: the order in which they are summed."""
    return [int(index) for index in np.argsort(-weights, kind="stable") if weights[index] > 0]


def blended(members: Sequence[Probabilities], weights: Weights) -> Probabilities:
    """The blend of some members as inference will sum it."""
    weights = normalized(weights)
    order = in_order(weights)
    return blend([members[index] for index in order], [weights[index] for index in order])


class Objective:
    """Weights -> best F-beta over thresholds, exactly what metrics.best_fbeta gives for the whole matrix.

    Args:
        members: each float32 (images, classes).
        targets: bool (images, classes).
    """

    def __init__(self, members: Sequence[Probabilities], targets: Targets, beta: float = 2.0) -> None:
        self.members, self.targets, self.beta = members, targets, beta
        self.true = np.count_nonzero(targets, axis=1)
        self._keep(FLOOR)

    def __call__(self, weights: Weights) -> Best:
        values = blended(self.entries, weights)
        above = values > np.float32(self.floor)
        found, bound = best_of_entries(
            values[above], self.rows[above], self.is_label[above], self.true, self.floor, self.beta
        )
        if bound <= found.score or self.floor == 0:
            return found
        # The best threshold may lie below the floor: keep more, and look again.
        self._keep(self.floor / 4 if self.floor > 1e-4 else 0.0)
        return self(weights)

    def _keep(self, floor: float) -> None:
        self.floor = floor
        kept = np.zeros(self.targets.shape, dtype=np.bool_)
        for member in self.members:
            kept |= member > np.float32(
                floor * (1 - 1e-5)
            )  # a float32 sum of shares may exceed the largest by rounding
        self.rows = np.nonzero(kept)[0]
        self.is_label = self.targets[kept]
        self.entries = [member[kept] for member in self.members]

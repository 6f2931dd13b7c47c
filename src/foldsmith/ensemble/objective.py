"""The score of a blend: F-beta from the entries that can matter, or any other metric from the whole matrix.

F-beta with one threshold for all, averaged over images or over classes, takes the sparse way and is as exact as the
dense one: the sum of a blend is the same float32 operations in the same order (ensemble/file.py), counts are integers,
and the mean is taken over the same array. The other metrics need the order of all entries, so they take the dense way.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.entries import Entries
from foldsmith.ensemble.file import blend
from foldsmith.fbeta import falling, fbeta_of_counts, from_falling, middle, sweep
from foldsmith.metrics import Best, Metric, Probabilities, Targets

DIGITS = 6  # of a weight in the ensemble file
BLOCK = 65536  # entries that are summed at a time: they stay in the processor's cache
CUTS = 16  # thresholds at which `best` scores before it looks between them

Weights = NDArray[np.float64]
Counts = NDArray[np.integer]  # of each row that has entries


class Point(NamedTuple):
    """Weights that sum to one, a threshold (None for metrics without one), and the score there."""

    weights: Weights
    threshold: float | None
    score: float  # always the larger the better: a loss is negated


def normalized(weights: Weights) -> Weights:
    """Non-negative weights that sum to one, rounded as the ensemble file keeps them."""
    weights = np.clip(np.nan_to_num(weights), 0, None)
    weights = weights if weights.sum() > 0 else np.ones(len(weights))
    return np.round(weights / weights.sum(), DIGITS)


def taking_part(weights: Weights) -> list[int]:
    """Indices of the members with a weight, in the order in which they are summed: the members' own."""
    return [int(index) for index in np.flatnonzero(weights > 0)]


def blended(members: Sequence[Probabilities] | NDArray[np.float32], weights: Weights) -> Probabilities:
    """The blend of some members as inference will sum it: those with a weight, in their order."""
    order = taking_part(weights)
    return blend([members[index] for index in order], [float(weights[index]) for index in order])


class Objective:
    """F-beta of blends at one threshold, exactly what fbeta and best_fbeta give for the whole matrix.

    Args:
        by_class: average over classes instead of images.
    """

    def __init__(self, entries: Entries, beta: float = 2.0, by_class: bool = False) -> None:
        self.entries, self.beta, self.by_class = entries, beta, by_class
        rows, of_row = (entries.columns, entries.labels[1]) if by_class else (entries.images, entries.labels[0])
        self.values, self.is_label = entries.values, entries.is_label
        if by_class:
            order = np.argsort(rows, kind="stable")
            self.values, rows, self.is_label = self.values[:, order], rows[order], self.is_label[order]
        self.all_true = np.bincount(of_row, minlength=entries.shape[int(by_class)])
        self.starts = np.flatnonzero(np.diff(rows, prepend=-1))  # of each row that has entries
        self.kept_rows = rows[self.starts]
        self.true = self.all_true[self.kept_rows]
        self.label_at = np.flatnonzero(self.is_label)
        self.row = np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(rows)))

    @property
    def floor(self) -> float:
        return self.entries.floor

    @property
    def members(self) -> int:
        return len(self.values)

    def blend(self, weights: Weights) -> Probabilities:
        """The blend's value at every entry."""
        order = taking_part(weights)
        total = np.empty(self.values.shape[1], dtype=np.float32)
        for start in range(0, len(total), BLOCK):
            block = slice(start, start + BLOCK)
            total[block] = blend([self.values[index, block] for index in order], weights[order].tolist())
        return total

    def score(self, weights: Weights, threshold: float) -> float:
        """F-beta at a threshold that is not below the floor."""
        over = self.blend(weights) > np.float32(threshold)
        return self._mean(self._count(over & self.is_label), self._count(over))

    def best(self, weights: Weights) -> tuple[Best, bool]:
        """The best threshold from the floor up, and whether it is proved that no lower one is better.

        The score between two thresholds is at most what it would be with the lower one's hits and the higher one's
        wrong predictions. So the scores at a few thresholds rule out most of the range; the rest is swept.
        """
        values = self.blend(weights)
        over = np.flatnonzero(values > np.float32(self.floor))
        if not len(over):
            return Best(0.0, max(self.floor, 0.5)), self.floor <= 0 and not self.true.any()
        sample = np.sort(values[over[:: max(1, len(over) // 10_000)]])
        cuts = np.unique([np.float32(self.floor), *sample[:: -max(1, len(sample) // CUTS)], values.max()])
        # (rows, cuts), the highest cut first: how many of a row's entries and labels exceed each
        predicted = self._exceeding(values, over, cuts)
        hits = self._exceeding(values, self.label_at, cuts)
        cuts, wrong = cuts[::-1], predicted - hits
        images = len(self.all_true)
        most = fbeta_of_counts(hits, self.true[:, None], predicted, self.beta).sum(axis=0).max() * (1 - 1e-9)
        bound = fbeta_of_counts(hits[:, 1:], self.true[:, None], hits[:, 1:] + wrong[:, :-1], self.beta).sum(axis=0)
        possible = np.flatnonzero(bound >= most)
        first, last = (int(possible[0]), int(possible[-1]) + 1) if len(possible) else (0, 1)
        best = self._swept(values, cuts[first], cuts[last], (hits[:, first], predicted[:, first]))
        below = fbeta_of_counts(self.true, self.true, self.true + wrong[:, -1], self.beta).sum()
        left_out = np.count_nonzero(self.all_true) - np.count_nonzero(self.true)  # rows without an entry: at best 1
        return best, bool((below + left_out) / images <= best.score)

    def _exceeding(self, values: Probabilities, entries: NDArray[np.int64], cuts: NDArray[np.float32]) -> Counts:
        """How many of some entries of every row exceed each cut, (rows, cuts), the highest cut first."""
        exceeded = np.searchsorted(cuts, values[entries])  # how many cuts lie below
        width = len(cuts) + 1
        counts = np.bincount(self.row[entries] * width + exceeded, minlength=len(self.true) * width)
        return np.cumsum(counts.reshape(-1, width)[:, :0:-1], axis=1)

    def near(self, weights: Weights, threshold: float, reach: float) -> Best:
        """The best threshold within `reach` of one."""
        values = self.blend(weights)
        high, low = np.float32(threshold + reach), np.float32(max(self.floor, threshold - reach))
        over = values > high
        return self._swept(values, high, low, (self._count(over & self.is_label), self._count(over)))

    def along(self, start: Weights, start_threshold: float, end: Weights, end_threshold: float) -> float:
        """Where on the way from one (weights, threshold) to another the score is highest: 0 is the start, 1 the end.

        Each entry crosses the threshold at most once on the way. A sort by row and crossing gives every row's score
        after each crossing, a second one all scores: the idea of Och's minimum error rate training (ACL 2003).
        """
        at_start = self.blend(start) - np.float32(start_threshold)
        at_end = self.blend(end) - np.float32(end_threshold)
        over, ends_over = at_start > 0, at_end > 0
        crossing = np.flatnonzero(over != ends_over)
        if not len(crossing):
            return 0.0
        gap = at_start[crossing]
        where = np.clip(gap / (gap - at_end[crossing]), np.float32(0), np.float32(1)).astype(np.float32)
        counts = self._count(over & self.is_label), self._count(over)
        codes, totals = sweep(
            where.view(np.uint32).astype(np.uint64),  # floats that are not negative rise with their bits
            self.row[crossing],
            ends_over[crossing],
            self.is_label[crossing],
            *counts,
            self.true,
            self.beta,
        )
        best = int(np.argmax(totals))
        points = codes.astype(np.uint32).view(np.float32)
        if totals[best] <= fbeta_of_counts(counts[0], self.true, counts[1], self.beta).sum().round(9):
            return float(points[0]) / 2
        return float(points[best] + (points[best + 1] if best + 1 < len(points) else 1)) / 2

    def row_scores(self, weights: Weights, threshold: float) -> NDArray[np.float64]:
        """F-beta of every image (or class)."""
        over = self.blend(weights) > np.float32(threshold)
        return self._scores(self._count(over & self.is_label), self._count(over))

    def curve(self, weights: Weights, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
        """F-beta at each threshold; none is below the floor."""
        values = self.blend(weights)
        overs = (values > np.float32(threshold) for threshold in thresholds)
        return np.array([self._mean(self._count(over & self.is_label), self._count(over)) for over in overs])

    def _swept(self, values: Probabilities, high: np.float32, low: np.float32, counts: tuple[Counts, Counts]) -> Best:
        """The best threshold in low..high, given the hits and predictions of every row at `high`."""
        window = np.flatnonzero((values > low) & (values <= high))
        total, threshold = fbeta_of_counts(counts[0], self.true, counts[1], self.beta).sum().round(9), high
        if len(window):
            codes, totals = sweep(
                falling(values[window]),
                self.row[window],
                np.True_,
                self.is_label[window],
                *counts,
                self.true,
                self.beta,
            )
            best = int(np.argmax(totals))
            if totals[best] > total:
                threshold = np.nextafter(from_falling(codes[best]), np.float32(-2))
        over = values > threshold
        upper = np.where(over, values, np.float32(np.inf)).min(initial=np.inf)
        lower = max(np.float32(self.floor), np.where(over, np.float32(-np.inf), values).max(initial=-np.inf))
        score = self._mean(self._count(over & self.is_label), self._count(over))
        return Best(score, middle(lower, upper) if np.isfinite(upper) else float(threshold))

    def _count(self, chosen: NDArray[np.bool_]) -> Counts:
        """How many entries are chosen in every row that has entries."""
        return np.add.reduceat(chosen.view(np.uint8), self.starts, dtype=np.int32)

    def _scores(self, hits: Counts, predicted: Counts) -> NDArray[np.float64]:
        scores = np.zeros(len(self.all_true))
        scores[self.kept_rows] = fbeta_of_counts(hits, self.true, predicted, self.beta)
        return scores

    def _mean(self, hits: Counts, predicted: Counts) -> float:
        return float(self._scores(hits, predicted).mean())


class DenseObjective:
    """Any metric of blends, from all members' whole matrices.

    Args:
        members: each float32 (images, classes).
        targets: bool (images, classes).
    """

    def __init__(self, members: Sequence[Probabilities], targets: Targets, metric: Metric) -> None:
        self.matrices, self.targets, self.metric = members, targets, metric

    @property
    def members(self) -> int:
        return len(self.matrices)

    def best(self, weights: Weights) -> tuple[Best, bool]:
        """The metric at its best threshold, negated where smaller is better; always proved."""
        best = self.metric.best(blended(self.matrices, weights), self.targets)
        return Best(best.score if self.metric.larger_is_better else -best.score, best.threshold), True

"""Thresholds of their own for classes or groups of classes, and limits on the labels of an image.

They are fitted to a blend whose weights were found with one threshold for all. One class's threshold moves while the
others stand still: a line along which F-beta is piecewise constant, so the best point of each line is found exactly
(fbeta.sweep), class after class, until nothing rises. Rare classes keep the joint threshold. Limits apply at the end:
one amount is added to all thresholds, again the best one, with the limits in force.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldsmith.errors import UserError
from foldsmith.fbeta import falling, fbeta_of_counts, from_falling, middle, sweep
from foldsmith.metrics import Metric, Probabilities, Targets, decide, image_fbeta

RARE = 20  # classes with fewer labels have no threshold of their own
REACH = 10.0  # thresholds of their own are at least the joint one divided by this
SWEEPS = 3
LOWEST_SHIFT = -0.1  # of all thresholds, where limits are in force


def groups_of(names: Sequence[str], kind: str) -> NDArray[np.int64]:
    """The number of the group of every class.

    Args:
        names: of the classes, such as "culture::french".
        kind: "per-class", "per-group" (what stands before "::") or "joint".
    """
    if kind == "joint":
        return np.zeros(len(names), dtype=np.int64)
    if kind == "per-class":
        return np.arange(len(names))
    heads = [name.split("::")[0] if "::" in name else "" for name in names]
    if len(set(heads)) < 2:
        raise UserError(
            "class names have no groups",
            key="--thresholds",
            hint="groups stand before :: in labels.csv, such as culture::french and tag::cats; or per-class",
        )
    number = {head: index for index, head in enumerate(dict.fromkeys(heads))}
    return np.array([number[head] for head in heads])


@dataclass(frozen=True)
class Rule:
    """How labels are decided beside the joint threshold."""

    groups: NDArray[np.int64]  # of every class (`groups_of`)
    min_labels: int = 0  # of an image
    max_labels: int | None = None

    @property
    def is_joint(self) -> bool:
        return not self.groups.any() and not self.min_labels and self.max_labels is None

    def fit(self, blend: Probabilities, targets: Targets, metric: Metric, joint: float) -> NDArray[np.float32]:
        """The threshold of every class.

        Args:
            blend: float32 (images, classes).
            joint: the best one for all.
        """
        thresholds = np.full(blend.shape[1], np.float32(joint))
        if self.groups.any():
            _fit_groups(blend, targets, metric, self.groups, thresholds)
        if self.min_labels or self.max_labels is not None:
            limits = self.min_labels, self.max_labels
            thresholds += np.float32(_best_shift(blend - thresholds, targets, metric, limits))
        return thresholds

    def row_scores(
        self, blend: Probabilities, targets: Targets, metric: Metric, thresholds: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """F-beta of every image (or class)."""
        predicted = decide(blend, thresholds.tolist(), self.min_labels, self.max_labels)
        if metric.by_class:
            predicted, targets = predicted.T, targets.T
        return image_fbeta(predicted, targets, metric.beta)


def _fit_groups(
    blend: Probabilities, targets: Targets, metric: Metric, groups: NDArray[np.int64], thresholds: NDArray[np.float32]
) -> None:
    """Coordinate ascent over the groups' thresholds, in place."""
    joint = thresholds[0]
    floor = joint / np.float32(REACH) if joint > 0 else joint - np.float32(abs(joint))
    by_column = blend.T.reshape(-1)
    at = np.flatnonzero((blend > floor).T.reshape(-1))  # entries, class after class
    columns, images = np.divmod(at, len(blend))
    values, is_label = by_column[at], targets[images, columns]
    rows, true = (columns, targets.sum(axis=0)) if metric.by_class else (images, targets.sum(axis=1))
    order = np.argsort(groups[columns], kind="stable")
    bounds = np.searchsorted(groups[columns][order], np.arange(groups.max() + 2))
    labels = np.bincount(groups, weights=targets.sum(axis=0), minlength=groups.max() + 1)
    over = values > thresholds[columns]
    predicted = np.bincount(rows[over], minlength=len(true))
    hits = np.bincount(rows[over & is_label], minlength=len(true))
    for _ in range(SWEEPS):
        moved = False
        for group in np.flatnonzero(labels >= RARE):
            entries = order[bounds[group] : bounds[group + 1]]
            if not len(entries):
                continue
            row, value, label = rows[entries], values[entries], is_label[entries]
            now = over[entries]
            np.subtract.at(predicted, row[now], 1)
            np.subtract.at(hits, row[now & label], 1)
            codes, totals = sweep(falling(value), row, np.True_, label, hits, predicted, true, metric.beta)
            best = int(np.argmax(totals))
            lower = from_falling(codes[best + 1]) if best + 1 < len(codes) else floor
            threshold = np.float32(middle(lower, from_falling(codes[best])))
            current = np.float32(thresholds[groups == group][0])
            if totals[best] > _total(hits, predicted, row[now], label[now], true, metric.beta) + 1e-6:
                thresholds[groups == group] = current = threshold
                moved = True
            over[entries] = now = value > current
            np.add.at(predicted, row[now], 1)
            np.add.at(hits, row[now & label], 1)
        if not moved:
            return


def _total(
    hits: NDArray, predicted: NDArray, rows: NDArray, labels: NDArray[np.bool_], true: NDArray, beta: float
) -> float:
    """The sum of F-beta with some more entries predicted."""
    hits = hits + np.bincount(rows[labels], minlength=len(true))
    return float(fbeta_of_counts(hits, true, predicted + np.bincount(rows, minlength=len(true)), beta).sum())


def _best_shift(margins: Probabilities, targets: Targets, metric: Metric, limits: tuple[int, int | None]) -> float:
    """The amount by which all thresholds rise or fall for the best score, with the limits in force.

    An image's labels enter in the order of their margins. The first `min_labels` of them are always in, those behind
    the first `max_labels` never: what is left is a sweep like any other.
    """
    at_least, at_most = limits
    kept = margins > np.float32(LOWEST_SHIFT)
    if at_least:
        top = np.argpartition(-margins, at_least - 1, axis=1)[:, :at_least]
        np.put_along_axis(kept, top, True, axis=1)
    images, columns = np.nonzero(kept)
    values, is_label = margins[kept], targets[kept]
    order = np.lexsort((columns, -values, images))
    rank = np.empty(len(order), dtype=np.int64)
    counts = np.bincount(images, minlength=len(targets))
    rank[order] = np.arange(len(order)) - (np.cumsum(counts) - counts)[images[order]]
    rows, true = (columns, targets.sum(axis=0)) if metric.by_class else (images, targets.sum(axis=1))
    always = rank < at_least
    predicted = np.bincount(rows[always], minlength=len(true))
    hits = np.bincount(rows[always & is_label], minlength=len(true))
    free = ~always if at_most is None else ~always & (rank < at_most)
    if not free.any():
        return 0.0
    codes, totals = sweep(
        falling(values[free]), rows[free], np.True_, is_label[free], hits, predicted, true, metric.beta
    )
    best = int(np.argmax(totals))
    if totals[best] <= fbeta_of_counts(hits, true, predicted, metric.beta).sum():
        return float(values[free].max())
    return middle(
        from_falling(codes[best + 1]) if best + 1 < len(codes) else np.float32(-0.1), from_falling(codes[best])
    )

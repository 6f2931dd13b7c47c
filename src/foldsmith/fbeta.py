"""F-beta from thresholded probabilities, and the threshold that maximises it, found exactly.

Definitions, the same in training, search and inference:
- A label is predicted where `probability > threshold`, compared in float32.
- One image scores (1 + b^2) tp / (b^2 * true + predicted); an image without labels and without predictions scores 0.
  That is scikit-learn's fbeta_score(average="samples", zero_division=0).
- A score is the mean over images, in float64. With transposed arguments it is the mean over classes ("macro").
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Targets = NDArray[np.bool_]


class Best(NamedTuple):
    """A score and the threshold that gives it; None for metrics without one."""

    score: float
    threshold: float | None


def above(probabilities: Probabilities, threshold: float) -> Targets:
    """The labels that a threshold predicts."""
    return probabilities > np.float32(threshold)


def fbeta(probabilities: Probabilities, targets: Targets, threshold: float, beta: float = 2.0) -> float:
    """F-beta of thresholded probabilities, averaged over images (over classes when both are transposed)."""
    return float(image_fbeta(above(probabilities, threshold), targets, beta).mean())


def image_fbeta(predicted: Targets, targets: Targets, beta: float = 2.0) -> NDArray[np.float64]:
    """F-beta of every image. Both arguments are bool (images, classes)."""
    hits = np.count_nonzero(predicted & targets, axis=1)
    return fbeta_of_counts(hits, np.count_nonzero(targets, axis=1), np.count_nonzero(predicted, axis=1), beta)


def best_fbeta(probabilities: Probabilities, targets: Targets, beta: float = 2.0, floor: float = 0.02) -> Best:
    """The highest F-beta over all thresholds, and the middle of the interval of thresholds that reaches it.

    Entries up to `floor` are left out at first; should the best threshold possibly lie below it, it is lowered.
    Transposed arguments give the average over classes.
    """
    true = np.count_nonzero(targets, axis=1)
    while True:
        kept = probabilities > np.float32(floor)
        best, bound = best_of_entries(probabilities[kept], np.nonzero(kept)[0], targets[kept], true, floor, beta)
        if bound <= best.score or floor == 0:
            return best
        floor = floor / 4 if floor > 1e-4 else 0.0


def best_of_entries(
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    is_label: NDArray[np.bool_],
    true: NDArray[np.int64],
    floor: float,
    beta: float = 2.0,
) -> tuple[Best, float]:
    """The best threshold at or above `floor`, given every (image, class) entry whose value exceeds it.

    As the threshold falls past a value, one more label is predicted and one image's score changes. A sort of the
    entries by image and value gives these changes, a second one by value and a cumulative sum the score at every
    threshold. Equal values are passed together. Among equal scores the highest threshold wins.

    Args:
        values: (entries,), above `floor`.
        rows: image of each entry; below 2**31.
        is_label: whether the entry's class is one of its image's labels.
        true: number of labels of every image.

    Returns:
        The best, and an upper bound of the score at thresholds below `floor`: there an image still has the wrong
        predictions that it has at `floor`, and at best all of its labels.
    """
    predicted = np.bincount(rows, minlength=len(true))
    wrong = predicted - np.bincount(rows[is_label], minlength=len(true))
    bound = float(fbeta_of_counts(true, true, true + wrong, beta).sum() / max(1, len(true)))
    if not len(values):
        return Best(0.0, max(floor, 0.5)), bound

    # Image, value and label in one integer: numpy sorts integers several times faster than it finds their order.
    keys = rows.astype(np.uint64) << np.uint64(33) | falling(values) << np.uint64(1) | is_label.view(np.uint8)
    keys.sort()
    image = (keys >> np.uint64(33)).view(np.int64)
    hit = (keys & np.uint64(1)).view(np.int64)
    value = keys >> np.uint64(1) & np.uint64(0xFFFFFFFF)
    first = (np.cumsum(predicted) - predicted)[image]  # position of the image's first entry
    hits = np.cumsum(hit)
    hits -= hits[first] - hit[first]
    position = np.arange(len(keys))
    scores = fbeta_of_counts(hits, true[image], position - first + 1, beta)
    change = np.diff(scores, prepend=0.0)
    change[first] = scores[first]

    # Rounding to 1e-9 of an image hides how a cumulative sum rounds, so that equal scores are seen to be equal.
    order = value << np.uint64(32) | position.view(np.uint64)
    order.sort()
    total = np.cumsum(change[order & np.uint64(0xFFFFFFFF)]).round(9)

    # A threshold can only lie between different values.
    value = order >> np.uint64(32)
    last_of_value = np.append(np.flatnonzero(value[1:] != value[:-1]), len(value) - 1)
    best = last_of_value[np.argmax(total[last_of_value])]
    if total[best] <= 0:  # nothing can be hit: predict nothing
        return Best(0.0, float(values.max())), bound
    upper, lower = _from_falling(value[best]), np.float32(floor)
    if best + 1 < len(value):
        lower = _from_falling(value[best + 1])
    threshold = middle(lower, upper)

    # The score once more, without the cumulative sum's rounding.
    over = values > np.float32(threshold)
    hits = np.bincount(rows[over & is_label], minlength=len(true))
    score = fbeta_of_counts(hits, true, np.bincount(rows[over], minlength=len(true)), beta).mean()
    return Best(float(score), threshold), bound


def fbeta_of_counts(hits: NDArray, true: NDArray, predicted: NDArray | np.int64, beta: float) -> NDArray[np.float64]:
    """F-beta from counts that broadcast: labels hit, true labels, predicted labels."""
    weight = beta * beta
    return (1 + weight) * hits / np.maximum(weight * true + predicted, 1e-9)  # 0 / 0 counts as 0


def falling(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """32-bit integers that rise as the values fall; 0.0 and -0.0 are one value."""
    bits = (values + np.float32(0)).view(np.int32)
    return (~(bits ^ (bits >> 31 & 0x7FFFFFFF)) ^ np.int32(-(2**31))).view(np.uint32).astype(np.uint64)


def _from_falling(code: np.uint64) -> np.float32:
    bits = ~(np.uint32(code) ^ np.uint32(1 << 31)).view(np.int32)
    return np.int32(bits ^ (bits >> 31 & 0x7FFFFFFF)).view(np.float32)


def middle(lower: np.float32, upper: np.float32) -> float:
    """The float32 threshold t, lower <= t < upper, that is farthest from both, so that rounding flips nothing."""
    half = np.float32((np.float64(lower) + np.float64(upper)) / 2)
    return float(half if lower <= half < upper else lower)


def best_constant_labels(targets: Targets, beta: float = 2.0) -> list[int]:
    """The most frequent classes, as many of them as give every image the best F-beta when predicted for all.

    It is what a submission falls back on when nothing better is known of an image.
    """
    order = np.argsort(-np.count_nonzero(targets, axis=0), kind="stable")
    scores = []
    true = np.count_nonzero(targets, axis=1)
    hits = np.zeros(len(targets), dtype=np.int64)
    for count, column in enumerate(order[:50], start=1):
        hits += targets[:, column]
        scores.append(fbeta_of_counts(hits, true, np.int64(count), beta).mean())
    return [int(column) for column in order[: int(np.argmax(scores)) + 1]]

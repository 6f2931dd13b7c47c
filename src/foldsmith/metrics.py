"""Multi-label F-beta averaged over images, and the threshold that maximises it, found exactly.

Definitions, the same in training, search and inference:
- A label is predicted where `probability > threshold`, compared in float32.
- One image scores (1 + b^2) tp / (b^2 * true + predicted); an image without labels and without predictions scores 0.
  That is scikit-learn's fbeta_score(average="samples", zero_division=0).
- A score is the mean over images, in float64.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]
Targets = NDArray[np.bool_]


class Best(NamedTuple):
    """A score and the threshold that gives it."""

    score: float
    threshold: float


def above(probabilities: Probabilities, threshold: float) -> Targets:
    """The labels that a threshold predicts."""
    return probabilities > np.float32(threshold)


def fbeta(probabilities: Probabilities, targets: Targets, threshold: float, beta: float = 2.0) -> float:
    """F-beta of thresholded probabilities, averaged over images.

    Args:
        probabilities: float32 (images, classes).
        targets: bool (images, classes).
        threshold: labels above it are predicted.
    """
    predicted = above(probabilities, threshold)
    return float(image_fbeta(predicted, targets, beta).mean())


def image_fbeta(predicted: Targets, targets: Targets, beta: float = 2.0) -> NDArray[np.float64]:
    """F-beta of every image. Both arguments are bool (images, classes)."""
    hits = np.count_nonzero(predicted & targets, axis=1)
    return _image_scores(hits, np.count_nonzero(targets, axis=1), np.count_nonzero(predicted, axis=1), beta)


def best_fbeta(probabilities: Probabilities, targets: Targets, beta: float = 2.0, floor: float = 0.02) -> Best:
    """The highest F-beta over all thresholds, and the middle of the interval of thresholds that reaches it.

    Entries up to `floor` are left out at first; should the best threshold possibly lie below it, it is lowered.

    Args:
        probabilities: float32 (images, classes), values in [0, 1].
        targets: bool (images, classes).
    """
    true = np.count_nonzero(targets, axis=1)
    while True:
        kept = probabilities > np.float32(floor)
        rows = np.nonzero(kept)[0]
        best, bound = best_of_entries(probabilities[kept], rows, targets[kept], true, floor, beta)
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
    threshold.
    Equal values are passed together. Among equal scores the highest threshold wins.

    Args:
        values: (entries,), above `floor`.
        rows: image of each entry.
        is_label: whether the entry's class is one of its image's labels.
        true: number of labels of every image.

    Returns:
        The best, and an upper bound of the score at thresholds below `floor`: there an image has at least the
        predictions that it has at `floor`, and at best all of its labels among them.
    """
    images = max(1, len(true))
    predicted = np.bincount(rows, minlength=len(true))
    bound = float(_image_scores(true, true, np.maximum(predicted, true), beta).sum() / images)
    if not len(values):
        return Best(0.0, max(floor, 0.5)), bound

    by_image = np.argsort(rows * 2.0 - values)  # values are at most 1, so images stay apart
    first = (np.cumsum(predicted) - predicted)[rows[by_image]]  # position of the image's first entry
    hits = np.cumsum(is_label[by_image], dtype=np.int64)
    hits -= hits[first] - is_label[by_image][first]
    position = np.arange(len(values))
    scores = _image_scores(hits, true[rows[by_image]], position - first + 1, beta)
    before = np.where(position == first, 0.0, np.roll(scores, 1))

    # Rounding to 1e-9 of an image hides that cumulative sums depend on the order of ties, which is the machine's.
    by_value = np.argsort(-values[by_image])
    values = values[by_image][by_value]
    total = np.cumsum((scores - before)[by_value]).round(9)

    # A threshold can only lie between different values.
    last_of_value = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    best = last_of_value[np.argmax(total[last_of_value])]
    if total[best] <= 0:  # nothing can be hit: predict nothing
        return Best(0.0, float(values[0])), bound
    lower = values[best + 1] if best + 1 < len(values) else np.float32(floor)
    threshold = middle(lower, values[best])

    # The score once more, without the cumulative sum's rounding.
    above_it = by_image[by_value[: best + 1]]
    hits = np.bincount(rows[above_it], weights=is_label[above_it], minlength=len(true))
    predicted = np.bincount(rows[above_it], minlength=len(true))
    return Best(float(_image_scores(hits, true, predicted, beta).mean()), threshold), bound


def log_loss(probabilities: Probabilities, targets: Targets) -> float:
    """Mean binary cross-entropy over images and classes; probabilities are kept 1e-7 away from 0 and 1."""
    p = np.clip(probabilities, np.float32(1e-7), np.float32(1 - 1e-7))
    return float(-np.log(np.where(targets, p, 1 - p)).mean(dtype=np.float64))


def middle(lower: np.float32, upper: np.float32) -> float:
    """The float32 threshold t, lower <= t < upper, that is farthest from both, so that rounding flips nothing."""
    half = np.float32((np.float64(lower) + np.float64(upper)) / 2)
    return float(half if lower <= half < upper else lower)


def _image_scores(hits: NDArray, true: NDArray, predicted: NDArray | np.int64, beta: float) -> NDArray[np.float64]:
    """Scores of images from counts that broadcast: labels hit, true labels, predicted labels."""
    weight = beta * beta
    return (1 + weight) * hits / np.maximum(weight * true + predicted, 1e-9)  # 0 / 0 counts as 0


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
        scores.append(_image_scores(hits, true, np.int64(count), beta).mean())
    return [int(column) for column in order[: int(np.argmax(scores)) + 1]]

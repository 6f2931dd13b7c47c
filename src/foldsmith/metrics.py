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


def best_fbeta(probabilities: Probabilities, targets: Targets, beta: float = 2.0) -> Best:
    """The highest F-beta over all thresholds, and the middle of the interval of thresholds that reaches it.

    As the threshold falls past a probability, one more label is predicted and one image's score changes. One sort of all
    entries gives the order of these changes, and their cumulative sum the score at every threshold. Equal
    probabilities are passed together. Among equal scores the highest threshold wins.

    Args:
        probabilities: float32 (images, classes), values in [0, 1].
        targets: bool (images, classes).
    """
    if not probabilities.size:
        return Best(0.0, 0.5)
    # Each image's entries from the most to the least probable: its score once it has that many labels.
    by_image = np.argsort(-probabilities, axis=1, kind="stable")
    hits = np.cumsum(np.take_along_axis(targets, by_image, axis=1), axis=1)
    predicted = np.arange(1, probabilities.shape[1] + 1)
    scores = _image_scores(hits, np.count_nonzero(targets, axis=1)[:, None], predicted, beta)
    changes = np.diff(scores, axis=1, prepend=0.0).ravel()

    # All entries from the most to the least probable: the sum of scores as the threshold falls past them.
    values = np.take_along_axis(probabilities, by_image, axis=1).ravel()
    order = np.argsort(-values, kind="stable")
    values, total = values[order], np.cumsum(changes[order])

    # A threshold can only lie between different values. It is never negative, so a probability of 0 is never predicted.
    last_of_value = np.append(np.flatnonzero(values[1:] != values[:-1]), len(values) - 1)
    last_of_value = last_of_value[values[last_of_value] > 0]
    if not last_of_value.size or total[last_of_value].max() <= 0:  # nothing can be hit: predict nothing
        return Best(0.0, float(values[0]))
    best = last_of_value[np.argmax(total[last_of_value])]
    lower = values[best + 1] if best + 1 < len(values) else np.float32(0)
    threshold = middle(lower, values[best])
    return Best(fbeta(probabilities, targets, threshold, beta), threshold)


def log_loss(probabilities: Probabilities, targets: Targets) -> float:
    """Mean binary cross-entropy over images and classes; probabilities are kept 1e-7 away from 0 and 1."""
    p = np.clip(probabilities, np.float32(1e-7), np.float32(1 - 1e-7))
    return float(-np.log(np.where(targets, p, 1 - p)).mean(dtype=np.float64))


def middle(lower: np.float32, upper: np.float32) -> float:
    """A float32 threshold t with lower <= t < upper, as far from both as float32 allows, so that rounding flips nothing."""
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

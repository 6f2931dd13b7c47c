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
        if bound <= best.score or floor <= 0:
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

    As the threshold falls past a value, one more label is predicted and one image's score changes (`sweep`). Among
    equal scores the highest threshold wins.

    Args:
        values: (entries,), above `floor`.
        rows: image of each entry.
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
    nothing = np.zeros(len(true), dtype=np.int64)
    codes, totals = sweep(falling(values), rows, np.True_, is_label, nothing, nothing, true, beta)
    best = int(np.argmax(totals))
    if totals[best] <= 0:  # nothing can be hit: predict nothing
        return Best(0.0, float(values.max())), bound
    lower = from_falling(codes[best + 1]) if best + 1 < len(codes) else np.float32(floor)
    threshold = middle(lower, from_falling(codes[best]))

    # The score once more, without the cumulative sum's rounding.
    over = values > np.float32(threshold)
    hits = np.bincount(rows[over & is_label], minlength=len(true))
    score = fbeta_of_counts(hits, true, np.bincount(rows[over], minlength=len(true)), beta).mean()
    return Best(float(score), threshold), bound


def sweep(
    codes: NDArray[np.uint64],
    rows: NDArray[np.int64],
    enters: NDArray[np.bool_] | np.bool_,
    is_label: NDArray[np.bool_],
    hits: NDArray[np.integer],
    predicted: NDArray[np.integer],
    true: NDArray[np.integer],
    beta: float,
) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """The sum of all rows' F-beta after each event, where an event makes one entry predicted or ends that it is.

    Args:
        codes: (events,) when each happens, in rising order; below 2**32. Those of equal codes happen together.
        rows: of each event, below 2**30.
        enters: whether the entry becomes predicted.
        is_label: whether it is one of its row's labels.
        hits, predicted, true: (rows,) labels hit, labels predicted before the first event, and labels.

    Returns:
        The different codes, rising, and the sum after all events up to each. Sums are rounded to 1e-9, so that equal
        ones are equal however a cumulative sum rounds.
    """
    # Row, code and what happens in one integer: numpy sorts integers faster than it finds their order.
    keys = rows.astype(np.uint64) << np.uint64(34)
    keys |= codes << np.uint64(2)
    keys |= enters.astype(np.uint64) << np.uint64(1) | is_label.view(np.uint8)
    keys.sort()
    row = (keys >> np.uint64(34)).view(np.int64)
    step = (keys & np.uint64(2)).view(np.int64) - 1
    position = np.arange(len(keys))
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    first = np.repeat(starts, np.diff(starts, append=len(keys)))

    def within_row(steps: NDArray[np.int64], before: NDArray[np.integer]) -> NDArray[np.int64]:
        sums = np.cumsum(steps)
        return sums + np.repeat(before[row[starts]] - sums[starts] + steps[starts], np.diff(starts, append=len(keys)))

    hit = within_row(step * (keys & np.uint64(1)).view(np.int64), hits)
    scores = fbeta_of_counts(hit, true[row], within_row(step, predicted), beta)
    at_first = fbeta_of_counts(hits, true, predicted, beta)
    change = np.where(position == first, scores - at_first[row], np.diff(scores, prepend=0.0))

    order = (keys >> np.uint64(2) & np.uint64(0xFFFFFFFF)) << np.uint64(32) | position.view(np.uint64)
    order.sort()
    totals = at_first.sum() + np.cumsum(change[order & np.uint64(0xFFFFFFFF)], dtype=np.longdouble).astype(np.float64)
    code = order >> np.uint64(32)
    last = np.append(np.flatnonzero(code[1:] != code[:-1]), len(code) - 1)
    return code[last], totals[last].round(9)


def fbeta_of_counts(hits: NDArray, true: NDArray, predicted: NDArray | np.int64, beta: float) -> NDArray[np.float64]:
    """F-beta from counts that broadcast: labels hit, true labels, predicted labels."""
    weight = beta * beta
    return (1 + weight) * hits / np.maximum(weight * true + predicted, 1e-9)  # 0 / 0 counts as 0


def falling(values: NDArray[np.float32]) -> NDArray[np.uint64]:
    """32-bit integers that rise as the values fall; 0.0 and -0.0 are one value."""
    bits = (values + np.float32(0)).view(np.int32)
    return (~(bits ^ (bits >> 31 & 0x7FFFFFFF)) ^ np.int32(-(2**31))).view(np.uint32).astype(np.uint64)


def from_falling(code: np.uint64) -> np.float32:
    """The value of a code."""
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

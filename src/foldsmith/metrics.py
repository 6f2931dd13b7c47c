"""Metrics by name. Probabilities are float32 (images, classes), targets bool of the same shape.

Multi-label predicts what exceeds a threshold (fbeta.py). Multi-class predicts the class of the highest probability, of
equal ones the first; its targets have one True a row. A class without labels and without predictions has F-beta 0.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldsmith.errors import UserError, did_you_mean, shown
from foldsmith.fbeta import (
    Best,
    Probabilities,
    Targets,
    above,
    best_constant_labels,
    best_fbeta,
    best_of_entries,
    falling,
    fbeta,
    image_fbeta,
    middle,
)

__all__ = [
    "METRICS",
    "Best",
    "Metric",
    "Probabilities",
    "Targets",
    "above",
    "best_constant_labels",
    "best_fbeta",
    "best_of_entries",
    "decide",
    "fbeta",
    "find_metric",
    "image_fbeta",
    "log_loss",
    "middle",
]

MULTILABEL, MULTICLASS = frozenset({"multilabel"}), frozenset({"multiclass"})


@dataclass(frozen=True)
class Metric:
    """One way to score predictions. `find_metric` makes them."""

    name: str
    tasks: frozenset[str]  # of {"multilabel", "multiclass"}
    larger_is_better: bool
    thresholded: bool
    _score: Callable[[Probabilities, Targets, float], float]
    _best: Callable[[Probabilities, Targets], Best] | None = None
    beta: float = 1.0  # of those with a threshold
    by_class: bool = False  # those with a threshold: whether F-beta is averaged over classes instead of images
    _of_images: Callable[[Probabilities, Targets], NDArray[np.float64]] | None = None

    def score(self, probabilities: Probabilities, targets: Targets, threshold: float | None = None) -> float:
        """The score at a threshold, which metrics without one ignore."""
        return self._score(probabilities, targets, 0.5 if threshold is None else threshold)

    def of_images(self, probabilities: Probabilities, targets: Targets) -> NDArray[np.float64] | None:
        """What every image contributes, where the metric has no threshold and is the mean over images; else None."""
        return self._of_images(probabilities, targets) if self._of_images else None

    def best(self, probabilities: Probabilities, targets: Targets) -> Best:
        """The score at the best joint threshold."""
        return self._best(probabilities, targets) if self._best else Best(self.score(probabilities, targets), None)


def log_loss(probabilities: Probabilities, targets: Targets) -> float:
    """Mean binary cross-entropy over images and classes; probabilities are kept 1e-7 away from 0 and 1."""
    return float(_log_losses(probabilities, targets).mean(dtype=np.float64))


def _log_losses(probabilities: Probabilities, targets: Targets) -> NDArray[np.float32]:
    p = np.clip(probabilities, np.float32(1e-7), np.float32(1 - 1e-7))
    return np.asarray(-np.log(np.where(targets, p, 1 - p)))


def class_log_loss(probabilities: Probabilities, targets: Targets) -> float:
    """Multi-class cross-entropy: the mean of -log p of the true class; p is at least 1e-7."""
    return float(_class_log_losses(probabilities, targets).mean())


def _class_log_losses(probabilities: Probabilities, targets: Targets) -> NDArray[np.float64]:
    return -np.log(np.maximum(probabilities[targets], np.float32(1e-7))).astype(np.float64)


def decide(
    probabilities: Probabilities,
    threshold: float | Sequence[float] | None,
    min_labels: int = 0,
    max_labels: int | None = None,
) -> Targets:
    """The labels that are predicted, bool (images, classes).

    Args:
        threshold: one for all classes, or one a class; None: the most probable class, as in multi-class.
        min_labels, max_labels: of an image. Where too few or too many exceed their thresholds, those are taken that
            exceed them the most, or fall short of them the least; of equal ones the first.
    """
    if threshold is None:
        return top_class(probabilities)
    thresholds = np.asarray(threshold, dtype=np.float32)
    predicted = probabilities > thresholds
    count = np.count_nonzero(predicted, axis=1)
    wanted = np.clip(count, min_labels, max_labels)
    for row in np.flatnonzero(count != wanted):
        predicted[row] = False
        predicted[row, np.argsort(thresholds - probabilities[row], kind="stable")[: wanted[row]]] = True
    return predicted


def top_class(probabilities: Probabilities) -> Targets:
    """One True a row: the most probable class."""
    return np.asarray(probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1]))


def accuracy(probabilities: Probabilities, targets: Targets) -> float:
    """Share of images whose most probable class is the true one."""
    return float(_right(probabilities, targets).mean())


def _right(probabilities: Probabilities, targets: Targets) -> NDArray[np.float64]:
    return np.take_along_axis(targets, probabilities.argmax(axis=1)[:, None], axis=1)[:, 0].astype(np.float64)


def class_fbeta(probabilities: Probabilities, targets: Targets, beta: float) -> NDArray[np.float64]:
    """F-beta of every class when each image gets its most probable one."""
    return image_fbeta(top_class(probabilities).T, targets.T, beta)


def _falling_counts(values: Probabilities, targets: Targets) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels hit and predictions made at each different threshold of one class, the highest first."""
    keys = falling(values) << np.uint64(1) | targets
    keys.sort()
    ends = np.append(np.flatnonzero(np.diff(keys >> np.uint64(1))), len(keys) - 1)
    return np.cumsum((keys & np.uint64(1)).view(np.int64))[ends], ends + 1


def mean_average_precision(probabilities: Probabilities, targets: Targets) -> float:
    """Mean over classes of sum (R_n - R_n-1) P_n, as scikit-learn's average_precision_score; 0 without any label.

    Classes without positives are left out.
    """
    scores = []
    for column in np.flatnonzero(targets.any(axis=0)):
        hits, predicted = _falling_counts(probabilities[:, column], targets[:, column])
        scores.append(np.sum(np.diff(hits, prepend=0) * hits / predicted) / hits[-1])
    return float(np.mean(scores)) if scores else 0.0


def roc_auc(probabilities: Probabilities, targets: Targets) -> float:
    """Mean over classes of the chance that a positive stands above a negative, equal values counting half.

    Classes with one kind only are left out; 0.5 where no class is left.
    """
    scores = []
    for column in np.flatnonzero(targets.any(axis=0) & ~targets.all(axis=0)):
        hits, predicted = _falling_counts(probabilities[:, column], targets[:, column])
        misses = predicted - hits
        below = misses[-1] - misses + np.diff(misses, prepend=0) / 2  # negatives below each group of equal values
        scores.append(np.sum(np.diff(hits, prepend=0) * below) / (hits[-1] * misses[-1]))
    return float(np.mean(scores)) if scores else 0.5


def _fbeta_by_images(name: str, beta: float) -> Metric:
    score, best = lambda p, y, t: fbeta(p, y, t, beta), lambda p, y: best_fbeta(p, y, beta)
    return Metric(name, MULTILABEL, True, True, score, best, beta)


def _fbeta_macro(name: str, beta: float) -> Metric:
    score, best = lambda p, y, t: fbeta(p.T, y.T, t, beta), lambda p, y: best_fbeta(p.T, y.T, beta)
    return Metric(name, MULTILABEL, True, True, score, best, beta, by_class=True)


def _fbeta_macro_of_top_class(name: str, beta: float) -> Metric:
    return Metric(name, MULTICLASS, True, False, lambda p, y, t: float(class_fbeta(p, y, beta).mean()))


def _f1_above(name: str, bound: float) -> Metric:
    return Metric(name, MULTICLASS, True, False, lambda p, y, t: float((class_fbeta(p, y, 1.0) > bound).mean()))


def find_metric(name: str, task: str) -> Metric:
    """The metric of a name for a task; `f<beta>`, `f<beta>_macro` and `f1_above_<bound>` take any number.

    Raises:
        UserError: there is none; says which fit the task.
    """
    if name in METRICS[task]:
        return METRICS[task][name]
    for pattern, make, makes_for in PATTERNS:
        match = re.fullmatch(pattern, name)
        if match and makes_for == task and float(match[1]) > 0:
            return make(name, float(match[1]))
    fits = f"task {task} has {', '.join(METRICS[task])} (any number in the place of f's and above's)"
    if any(name in names for names in METRICS.values()) or any(re.fullmatch(p, name) for p, _, _ in PATTERNS):
        raise UserError(f"{name!r} does not fit task {task}", key="metric", hint=fits)
    near = did_you_mean(name, METRICS[task])
    raise UserError(f"unknown metric {shown(name)}", key="metric", hint=f"{near} {fits}" if "did you" in near else fits)


_NUMBER = r"([0-9]{1,3}(?:\.[0-9]{1,4})?)"
PATTERNS: list[tuple[str, Callable[[str, float], Metric], str]] = [
    (f"f{_NUMBER}", _fbeta_by_images, "multilabel"),
    (f"f{_NUMBER}_macro", _fbeta_macro, "multilabel"),
    (f"f{_NUMBER}_macro", _fbeta_macro_of_top_class, "multiclass"),
    (f"f1_above_{_NUMBER}", _f1_above, "multiclass"),
]
_BOTH = [
    Metric("map", MULTILABEL | MULTICLASS, True, False, lambda p, y, t: mean_average_precision(p, y)),
    Metric("roc_auc", MULTILABEL | MULTICLASS, True, False, lambda p, y, t: roc_auc(p, y)),
]
METRICS: dict[str, dict[str, Metric]] = {
    "multilabel": {
        "f2": _fbeta_by_images("f2", 2.0),
        "f1": _fbeta_by_images("f1", 1.0),
        "f0.5": _fbeta_by_images("f0.5", 0.5),
        "f2_macro": _fbeta_macro("f2_macro", 2.0),
        "f1_macro": _fbeta_macro("f1_macro", 1.0),
        **{metric.name: metric for metric in _BOTH},
        "log_loss": Metric(
            "log_loss",
            MULTILABEL,
            False,
            False,
            lambda p, y, t: log_loss(p, y),
            _of_images=lambda p, y: _log_losses(p, y).mean(axis=1, dtype=np.float64),
        ),
    },
    "multiclass": {
        "accuracy": Metric("accuracy", MULTICLASS, True, False, lambda p, y, t: accuracy(p, y), _of_images=_right),
        "f1_macro": _fbeta_macro_of_top_class("f1_macro", 1.0),
        "f2_macro": _fbeta_macro_of_top_class("f2_macro", 2.0),
        "f1_above": _f1_above("f1_above", 0.7),
        **{metric.name: metric for metric in _BOTH},
        "log_loss": Metric(
            "log_loss", MULTICLASS, False, False, lambda p, y, t: class_log_loss(p, y), _of_images=_class_log_losses
        ),
    },
}

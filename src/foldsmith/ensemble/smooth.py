"""Smoothed objectives with gradients, for optimisers that follow a slope."""

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.objective import DenseObjective, Objective


def smooth_loss(
    objective: Objective | DenseObjective, width: float, x: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """A loss that falls as the score rises, and its gradient.

    F-beta counts an entry as predicted by sigmoid((value - threshold) / width). The other metrics give way to the
    cross-entropy of the blend, which has no width.

    Args:
        x: the members' weights, and for F-beta the threshold behind them.
    """
    return _soft_fbeta(objective, width, x) if isinstance(objective, Objective) else _cross_entropy(objective, x)


def _soft_fbeta(objective: Objective, width: float, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    x = x.astype(np.float32)
    predicted = (x[:-1] @ objective.values - x[-1]) / np.float32(width)
    np.clip(predicted, -30, 30, out=predicted)
    predicted = 1 / (1 + np.exp(-predicted))
    weight = objective.beta**2
    counts = np.add.reduceat(predicted, objective.starts)
    hits = np.add.reduceat(np.where(objective.is_label, predicted, np.float32(0)), objective.starts)
    below = weight * objective.true + counts
    score = ((1 + weight) * hits / below).sum() / len(objective.all_true)
    # d score / d value of an entry: its label adds to the hits, the entry itself to what is predicted.
    gain, cost = ((1 + weight) / below).astype(np.float32), ((1 + weight) * hits / below**2).astype(np.float32)
    slope = (np.where(objective.is_label, gain[objective.row], np.float32(0)) - cost[objective.row]) * predicted
    slope *= (1 - predicted) / np.float32(width * len(objective.all_true))
    return -float(score), -np.append(objective.values @ slope, -slope.sum()).astype(np.float64)


def _cross_entropy(objective: DenseObjective, x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    members, targets = objective.matrices, objective.targets
    total = sum(np.float32(weight) * member for weight, member in zip(x, members, strict=True))
    p = np.clip(np.asarray(total), np.float32(1e-6), np.float32(1 - 1e-6))
    if "multiclass" in objective.metric.tasks and (targets.sum(axis=1) == 1).all():
        slope = np.where(targets, -1 / p, np.float32(0)) / np.float32(len(p))
        loss = -np.log(p[targets]).mean(dtype=np.float64)
    else:
        slope = np.where(targets, -1 / p, 1 / (1 - p)) / np.float32(p.size)
        loss = -np.log(np.where(targets, p, 1 - p)).mean(dtype=np.float64)
    return float(loss), np.array([np.vdot(slope, member) for member in members], dtype=np.float64)

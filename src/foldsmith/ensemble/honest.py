"""What a blend's score is worth: folds held out, images resampled, members left out."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.fit import SMALL, Problem
from foldsmith.ensemble.objective import DenseObjective, Objective, Point, Weights, blended, normalized
from foldsmith.ensemble.optimizers import climb, run
from foldsmith.ensemble.threads import in_threads
from foldsmith.ensemble.thresholds import Rule
from foldsmith.metrics import Metric, Probabilities, Targets, decide

RESAMPLES = 1000  # of the images, where a score is a mean over images
COSTLY_RESAMPLES = (20, 100)  # at least and at most, where it is computed anew for each
ROUNDING = 1e-9  # equal scores of a resample may differ by so much
CLEAR = 0.95  # a blend is clearly better when it is so in this share of the resamples
KINDS = ("blend", "uniform", "single")


@dataclass(frozen=True)
class Held:
    """Predictions of one fold by what was fitted on the others."""

    score: float
    rows: NDArray[np.float64] | None  # of every image, where the score is their mean
    values: Probabilities | None  # else: the blend minus its threshold


@dataclass(frozen=True)
class Worth:
    """Held-out scores, by kind: weights, thresholds and the choice of the single are made without the fold scored."""

    nested: dict[str, float]  # over the images of all folds
    intervals: dict[str, list[float]]  # hold 95 % of the resamples
    beats: dict[str, float]  # share of resamples in which the blend is better than "uniform", "single"

    def sentence(self) -> str:
        """What to think of it, where the blend is not clearly better than equal weights; else empty."""
        if self.beats["uniform"] >= CLEAR:
            return ""
        return (
            "The blend is not clearly better than equal weights: on images that it was not fitted to, it wins in "
            f"{self.beats['uniform']:.0%} of the resamples. Equal weights are as good a choice."
        )


def worth(problem: Problem, method: str, seconds: float, rule: Rule) -> Worth:
    """Fit without each fold, score on it, and resample the images.

    Args:
        method: `auto` fits by exact lines alone.
        seconds: for each fold's fit.
    """
    fold_of = problem.data.fold_of
    folds = in_threads(lambda fold: _hold_out(problem, fold, method, seconds, rule), range(fold_of.max() + 1))
    nested = _nested(problem, folds)
    drawn = _resample(problem, folds)
    sign = 1 if problem.metric.larger_is_better else -1
    return Worth(
        nested,
        {kind: [float(bound) for bound in np.quantile(drawn[kind], [0.025, 0.975])] for kind in KINDS},
        {kind: float((sign * (drawn["blend"] - drawn[kind]) > ROUNDING).mean()) for kind in KINDS[1:]},
    )


def _hold_out(problem: Problem, fold: int, method: str, seconds: float, rule: Rule) -> dict[str, Held]:
    objective = problem.objective(problem.data.fold_of != fold)
    uniform = problem.uniform(objective)
    single = problem.settled(objective, _best_single(objective, uniform.threshold))
    if method == "auto":
        fitted = climb(objective, uniform, seconds)
    else:
        fitted = run(method, objective, uniform, seconds)[method]
    best = max((uniform, single, fitted), key=lambda point: point.score)
    inside = problem.objective(problem.data.fold_of == fold) if rule.is_joint else None
    points = dict(zip(KINDS, (best, uniform, single), strict=True))
    return {kind: _held(problem, fold, inside, point, rule) for kind, point in points.items()}


def _best_single(objective: Objective | DenseObjective, threshold: float | None) -> Weights:
    """The weights of the best member alone; on many entries by the score at the threshold of equal weights."""
    axes = np.eye(objective.members)
    if isinstance(objective, Objective) and objective.values.shape[1] > SMALL and threshold is not None:
        return max(axes, key=lambda axis: objective.score(axis, threshold))
    return max(axes, key=lambda axis: objective.best(axis)[0].score)


def _held(problem: Problem, fold: int, objective: Objective | DenseObjective | None, point: Point, rule: Rule) -> Held:
    """The score of a point on a fold that it was not fitted to. `objective` is that fold's, for a joint threshold."""
    inside, metric = problem.data.fold_of == fold, problem.metric
    if not rule.is_joint:
        assert point.threshold is not None
        blend, targets = problem.blend(point.weights), problem.data.targets
        fitted = rule.fit(blend[~inside], targets[~inside], metric, point.threshold)
        rows = rule.row_scores(blend[inside], targets[inside], metric, fitted)
        decided = decide(blend[inside], fitted.tolist(), rule.min_labels, rule.max_labels)
        values = np.where(decided, np.float32(1), np.float32(-1))
        return Held(float(rows.mean()), None if metric.by_class else rows, values)
    if isinstance(objective, Objective) and not metric.by_class:
        assert point.threshold is not None
        rows = objective.row_scores(point.weights, point.threshold)
        return Held(float(rows.mean()), rows, None)
    targets = problem.data.targets[problem.data.members[0].rows[fold]]
    values = blended([member.map(fold) for member in problem.data.members], point.weights)
    score, of_images = metric.score(values, targets, point.threshold), metric.of_images(values, targets)
    if of_images is not None:
        return Held(score, of_images, None)
    # The other metrics are no means over images: what is predicted is kept, to be scored again and again.
    return Held(score, None, values - np.float32(point.threshold or 0))


def _nested(problem: Problem, folds: list[dict[str, Held]]) -> dict[str, float]:
    """Scores over all folds: means over images or, where the metric is none, the score of the folds put together."""
    if all(held[kind].rows is not None for held in folds for kind in KINDS):
        share = np.bincount(problem.data.fold_of) / len(problem.data.fold_of)
        return {k: float(sum(s * held[k].score for s, held in zip(share, folds, strict=True))) for k in KINDS}
    values, targets = _together(problem, folds)
    return {kind: problem.metric.score(values[kind], targets, 0.0) for kind in KINDS}


def _together(problem: Problem, folds: list[dict[str, Held]]) -> tuple[dict[str, Probabilities], Targets]:
    """Held-out values of all folds less their thresholds, and the labels, fold after fold."""
    order = np.concatenate([rows for rows in problem.data.members[0].rows])
    values = {kind: np.concatenate([held[kind].values for held in folds]) for kind in KINDS}
    return values, problem.data.targets[order]


def _resample(problem: Problem, folds: list[dict[str, Held]]) -> dict[str, NDArray[np.float64]]:
    """Scores of the three kinds when images are drawn with replacement, the same draws for all."""
    if all(held[kind].rows is not None for held in folds for kind in KINDS):
        rows = np.stack([np.concatenate([held[kind].rows for held in folds]) for kind in KINDS])
        return dict(zip(KINDS, resampled_means(rows), strict=True))
    values, targets = _together(problem, folds)
    return dict(zip(KINDS, resampled_scores([values[kind] for kind in KINDS], targets, problem.metric), strict=True))


def resampled_means(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over images that are drawn with replacement, the same draws for all models.

    Args:
        rows: (models, images) the score of every image.

    Returns:
        (models, RESAMPLES); the same for the same rows.
    """
    rng, images = np.random.default_rng(0), rows.shape[1]
    means = np.empty((len(rows), RESAMPLES))
    for number in range(RESAMPLES):
        counts = np.bincount(rng.integers(0, images, images, dtype=np.int32), minlength=images)
        means[:, number] = rows @ counts / images
    return means


def resampled_scores(values: Sequence[Probabilities], targets: Targets, metric: Metric) -> NDArray[np.float64]:
    """`resampled_means` for metrics that are no mean over images, of which each resample is scored anew.

    Args:
        values: of each model, less its threshold, (images, classes).
        targets: bool (images, classes).

    Returns:
        (models, resamples): 20 to 100 of them, the fewer the more values there are.
    """
    rng, images = np.random.default_rng(0), len(targets)
    scores: list[list[float]] = []
    for _ in range(int(np.clip(2e8 / targets.size, *COSTLY_RESAMPLES))):
        drawn = rng.integers(0, images, images)
        scores.append([metric.score(each[drawn], targets[drawn], 0.0) for each in values])
    return np.array(scores).T


def leave_one_out(problem: Problem, best: Point) -> NDArray[np.float64]:
    """What the score loses without each member, the other weights in their proportions and a threshold of their own."""
    objective = problem.objective()

    def loss(member: int) -> float:
        rest = np.where(np.arange(objective.members) == member, 0, best.weights)
        if not best.weights[member] or not rest.any():
            return 0.0
        return best.score - problem.settled(objective, normalized(rest)).score

    return np.array(in_threads(loss, range(objective.members)))


def correlations(problem: Problem) -> NDArray[np.float64]:
    """Of the members' values with each other, over the entries that can matter; of all where none are left out.

    A member whose values are all the same has correlation 0 with the others.
    """
    if problem.working is not None:
        values = problem.working.values
    else:
        values = np.stack([member.probabilities.reshape(-1) for member in problem.data.members])
    if not values.size:
        return np.eye(len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        centered = values - values.mean(axis=1, dtype=np.float64, keepdims=True).astype(np.float32)
        products = np.array([[np.vdot(a, b) for b in centered] for a in centered], dtype=np.float64)
        return np.nan_to_num(products / np.sqrt(np.outer(np.diag(products), np.diag(products))))

"""How good OOF predictions are: score, held-out score, interval, and every class."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.file import Ensemble
from foldsmith.ensemble.fit import Problem, pose, prove
from foldsmith.ensemble.honest import resampled_means, resampled_scores
from foldsmith.ensemble.members import OofData, load_members
from foldsmith.ensemble.objective import Objective, Point
from foldsmith.errors import UserError
from foldsmith.fbeta import above, best_fbeta, fbeta_of_counts, image_fbeta
from foldsmith.metrics import Metric, Probabilities, Targets, decide, find_metric
from foldsmith.report.runs import Run


@dataclass(frozen=True)
class Judged:
    """A model's OOF score, and what it is on folds that the threshold was not fitted to."""

    metric: Metric
    score: float
    threshold: float | None
    nested: float
    rows: NDArray[np.float64] | None  # held-out score of every image, where the score is their mean
    values: Probabilities | None  # else: the probabilities less the threshold of their fold


@dataclass(frozen=True)
class Decision:
    """How labels are decided: the arguments of `metrics.decide`, which inference calls with the ensemble file's."""

    threshold: float | list[float] | None
    min_labels: int = 0
    max_labels: int | None = None

    def labels(self, probabilities: Probabilities) -> Targets:
        """The labels that are predicted, bool (images, classes)."""
        return decide(probabilities, self.threshold, self.min_labels, self.max_labels)


def oof_data(runs: Sequence[Run]) -> OofData:
    """The OOF files of some runs, proved to be of the same images, classes and folds."""
    return load_members([run.oof for run in runs])


def equal_weights(count: int) -> NDArray[np.float64]:
    return np.full(count, 1 / count)


def weights_in(ensemble: Ensemble, data: OofData) -> NDArray[np.float64]:
    """The weight of every member of the data in an ensemble.

    Raises:
        UserError: the ensemble has a member that is not in the data, or of other weights than its OOF files are of;
            or it is of other classes.
    """
    if ensemble.classes_sha256 != data.classes_sha256:
        raise UserError("it is of another class list")
    if isinstance(ensemble.threshold, list) and len(ensemble.threshold) != len(data.classes):
        raise UserError(f"it has {len(ensemble.threshold)} thresholds for {len(data.classes)} classes")
    of_name = {member.name: member for member in ensemble.members}
    names = [member.name for member in data.members]
    if missing := sorted(set(of_name) - set(names)):
        raise UserError(f"its members {', '.join(missing)} are not among the experiments named")
    for member in data.members:
        known = of_name[member.name].sha256 if member.name in of_name else []
        if known and [sidecar.weights_sha256 for sidecar in member.sidecars[: len(known)]] != known:
            raise UserError(f"{member.name!r} was trained or predicted again since the search")
    return np.array([of_name[name].weight if name in of_name else 0.0 for name in names])


def blend_of(data: OofData, weights: NDArray[np.float64]) -> Probabilities:
    """A blend's OOF probabilities as inference sums them, (images, classes); members in the order of the data."""
    return Problem(data, find_metric(data.metric, data.task), None, None, Point(weights, None, 0.0)).blend(weights)


def blend_in_order(ensemble: Ensemble, data: OofData) -> Probabilities:
    """An ensemble's OOF probabilities, summed in the order of its file: another order rounds differently."""
    member_of = {member.name: member for member in data.members}
    ordered = replace(data, members=[member_of[member.name] for member in ensemble.members])
    return blend_of(ordered, np.array([member.weight for member in ensemble.members]))


def decided_score(probabilities: Probabilities, targets: Targets, metric: Metric, decision: Decision) -> float:
    """The score of what is decided; of metrics that have no threshold, that of the probabilities."""
    if not metric.thresholded:
        return metric.score(probabilities, targets)
    predicted = decision.labels(probabilities)
    if metric.by_class:
        predicted, targets = predicted.T, targets.T
    return float(image_fbeta(predicted, targets, metric.beta).mean())


def judge(data: OofData, weights: NDArray[np.float64], metric: Metric) -> Judged:
    """Score a blend of the members at its best threshold, and each fold at the threshold best for the other folds.

    F-beta by images takes the sparse way of the search, to the same numbers; other metrics read whole matrices.
    """
    if not metric.thresholded or metric.by_class:
        return _judge_dense(blend_of(data, weights), data, metric)
    chosen = np.flatnonzero(weights)
    data, weights = replace(data, members=[data.members[index] for index in chosen]), weights[chosen]
    problem = pose(data, metric)
    point = prove(problem, weights)
    assert problem.entries is not None
    rows = np.empty(len(data.targets))
    for fold in range(data.fold_of.max() + 1):
        inside = data.fold_of == fold
        best, proved = Objective(problem.entries.of_images(~inside), metric.beta).best(weights)
        if not proved:  # a threshold below the floor might be better for these images
            best = metric.best(blend_of(data, weights)[~inside], data.targets[~inside])
        assert best.threshold is not None
        if best.threshold >= problem.entries.floor:
            scored = Objective(problem.entries.of_images(inside), metric.beta)
            rows[inside] = scored.row_scores(weights, best.threshold)
        else:
            predicted = above(blend_of(data, weights)[inside], best.threshold)
            rows[inside] = image_fbeta(predicted, data.targets[inside], metric.beta)
    return Judged(metric, point.score, point.threshold, float(rows.mean()), rows, None)


def _judge_dense(probabilities: Probabilities, data: OofData, metric: Metric) -> Judged:
    best, targets, values = metric.best(probabilities, data.targets), data.targets, probabilities.copy()
    rows = metric.of_images(probabilities, targets)
    if rows is not None:
        return Judged(metric, best.score, None, best.score, rows, None)
    for fold in range(data.fold_of.max() + 1):
        inside = data.fold_of == fold
        fitted = metric.best(probabilities[~inside], targets[~inside]).threshold
        values[inside] -= np.float32(fitted or 0.0)
    return Judged(metric, best.score, best.threshold, metric.score(values, targets, 0.0), None, values)


def resampled(models: Sequence[Judged], targets: Targets) -> NDArray[np.float64]:
    """Held-out scores of some models when images are drawn with replacement, the same draws for all.

    Returns:
        (models, resamples).
    """
    if all(model.rows is not None for model in models):
        return resampled_means(np.stack([model.rows for model in models if model.rows is not None]))
    return resampled_scores([m.values for m in models if m.values is not None], targets, models[0].metric)


def interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    """What holds 95 % of the resamples."""
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


@dataclass(frozen=True)
class ClassTable:
    """Counts of every class, (classes,), from which precision, recall and F-beta follow."""

    images: NDArray[np.int64]  # that have the label
    predicted: NDArray[np.int64]
    hits: NDArray[np.int64]
    beta: float
    best_threshold: NDArray[np.float64]  # the one that is best for the class alone; NaN where there is none
    best_score: NDArray[np.float64]

    @property
    def precision(self) -> NDArray[np.float64]:
        """NaN where nothing is predicted."""
        with np.errstate(invalid="ignore"):
            return self.hits / np.where(self.predicted > 0, self.predicted, np.nan)

    @property
    def recall(self) -> NDArray[np.float64]:
        """NaN where no image has the label."""
        with np.errstate(invalid="ignore"):
            return self.hits / np.where(self.images > 0, self.images, np.nan)

    @property
    def scores(self) -> NDArray[np.float64]:
        """F-beta of every class."""
        return fbeta_of_counts(self.hits, self.images, self.predicted, self.beta)


def usual_decision(probabilities: Probabilities, data: OofData, judged: Judged) -> Decision:
    """The joint threshold that is the metric's best, else F2's; where an image has one label, the top class."""
    if data.task == "multiclass":
        return Decision(None)
    if judged.threshold is not None:
        return Decision(judged.threshold)
    return Decision(best_fbeta(probabilities, data.targets).threshold)


def class_table(probabilities: Probabilities, data: OofData, metric: Metric, decision: Decision) -> ClassTable:
    """Every class as it is decided, and at the threshold that is best for it alone."""
    predicted, targets = decision.labels(probabilities), data.targets
    beta = metric.beta if metric.thresholded else 2.0 if data.task == "multilabel" else 1.0
    images = np.count_nonzero(targets, axis=0)
    thresholds, scores = np.full(len(images), np.nan), np.full(len(images), np.nan)
    if decision.threshold is not None:
        for index in np.flatnonzero(images):
            # One row, the class: its mean over "images" is the class's own F-beta.
            best = best_fbeta(probabilities[:, [index]].T, targets[:, [index]].T, beta)
            thresholds[index], scores[index] = best.threshold, best.score
    hits = np.count_nonzero(predicted & targets, axis=0)
    return ClassTable(images, np.count_nonzero(predicted, axis=0), hits, beta, thresholds, scores)

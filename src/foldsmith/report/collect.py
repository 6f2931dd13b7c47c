"""Everything that the page shows, as plain data."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import foldsmith
from foldsmith.data.fold_quality import FoldQuality, fold_quality
from foldsmith.data.tables import read_table
from foldsmith.ensemble.entries import choose_floor, read_entries
from foldsmith.ensemble.file import Ensemble
from foldsmith.ensemble.fit import Problem
from foldsmith.ensemble.honest import ROUNDING, correlations
from foldsmith.ensemble.members import OofData
from foldsmith.ensemble.objective import Objective, Point, Weights
from foldsmith.errors import UserError
from foldsmith.metrics import Metric, Probabilities, find_metric
from foldsmith.report.gallery import Card, embed, gallery, with_paths
from foldsmith.report.judge import (
    Decision,
    Judged,
    blend_in_order,
    blend_of,
    class_table,
    decided_score,
    equal_weights,
    judge,
    oof_data,
    usual_decision,
    weights_in,
)
from foldsmith.report.leaderboard import Line, as_json, leaderboard
from foldsmith.report.noise import KINDS
from foldsmith.report.runs import Found, Run, find_runs

CURVE_POINTS = 60
NAMES_SHOWN = 12  # of classes that a fold lacks


@dataclass
class Collected:
    """What was judged so far, by the name of the model, blends before the experiments of their split."""

    judged: dict[str, Judged] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    galleries: dict[str, list[list[Card]]] = field(default_factory=dict)
    wanted: list[list[tuple[Card, Path]]] = field(default_factory=list)  # pictures, those of blends first
    notes: list[str] = field(default_factory=list)


def collect(paths: Sequence[Path]) -> dict[str, Any]:
    """The page's data, in JSON's types.

    Args:
        paths: of `find_runs`.
    """
    found = find_runs(paths)
    seen = Collected(notes=list(found.notes))
    splits = splits_of(found, seen.notes)
    groups = [_group(names, found, seen) for names in splits]
    lines = leaderboard(found, seen.judged, seen.targets)
    order = [line.name for line in lines]
    pictures = embed(seen.wanted)
    return {
        "version": foldsmith.__version__,
        "notes": seen.notes,
        "leaderboard": as_json(lines),
        "curves": [_curves(found.runs[name]) for name in order if name in found.runs and found.runs[name].metrics],
        "groups": groups,
        "classes": {name: seen.classes[name] for name in order if name in seen.classes},
        "galleries": {
            name: dict(zip(("mistakes", *KINDS), seen.galleries[name], strict=True))
            for name in order
            if name in seen.galleries
        },
        "pictures": pictures,
    }


def judge_runs(paths: Sequence[Path]) -> tuple[list[Line], list[str]]:
    """The leaderboard alone, and what could not be judged."""
    found = find_runs(paths)
    seen = Collected(notes=list(found.notes))
    for names in splits_of(found, seen.notes):
        data = oof_data([found.runs[name] for name in names])
        _weights_of_blends(names, found, data, seen)
        _judge_experiments(names, found, data, seen)
    return leaderboard(found, seen.judged, seen.targets), seen.notes


def splits_of(found: Found, notes: list[str]) -> list[list[str]]:
    """Names of the experiments whose OOF files are complete, those of the same labels and folds together.

    What is wrong with the others goes into `notes`, and that there are several splits.
    """
    groups: dict[tuple[str, str, str], list[str]] = {}
    for name, run in found.runs.items():
        if not run.oof.is_file():
            continue
        try:
            data = oof_data([run])
        except UserError as error:
            notes.append(f"{name} is not judged: {error}")
            continue
        sidecar = data.members[0].sidecars[0]
        labels = hashlib.sha256(np.packbits(data.targets).tobytes()).hexdigest()
        groups.setdefault((sidecar.folds_sha256, sidecar.classes_sha256, labels), []).append(name)
    if len(groups) > 1:
        listed = "; ".join(", ".join(names) for names in groups.values())
        notes.append(f"scores compare among experiments of the same images, labels and folds: {listed}")
    return list(groups.values())


def _group(names: list[str], found: Found, seen: Collected) -> dict[str, Any]:
    """The experiments of one split: the ensembles made of them, each of them alone, curves and correlation."""
    runs = [found.runs[name] for name in names]
    data = oof_data(runs)
    table = read_table(runs[0].config)
    entries = read_entries(data, choose_floor(data, 2.0, False))
    problem = Problem(data, find_metric(data.metric, data.task), entries, entries, Point(equal_weights(1), None, 0.0))
    blends = _weights_of_blends(names, found, data, seen)
    _judge_experiments(names, found, data, seen)
    sweeps = [_look_into_blend(name, found.ensembles[name], blends[name], problem, table.ids, seen) for name in blends]
    for name, weights in zip(names, np.eye(len(names)), strict=True):
        judged, probabilities = seen.judged[name], blend_of(data, weights)
        decision = usual_decision(probabilities, data, judged)
        seen.classes[name] = _classes(probabilities, data, judged.metric, decision, judged.score)
        seen.galleries[name] = gallery(probabilities, data, table.ids, decision)
        sweeps.append(_sweep(name, weights, judged.metric, judged.threshold, problem))
    for name in (*blends, *names):
        seen.wanted += with_paths(seen.galleries[name], runs[0].config)
    return {
        "members": names,
        "correlation": np.round(correlations(problem), 4).tolist(),
        "blends": {name: np.round(each, 6).tolist() for name, each in blends.items()},
        "sweeps": [sweep for sweep in sweeps if sweep is not None],
        "split": _split(fold_quality(table, data.fold_of, int(data.fold_of.max()) + 1)),
    }


def _weights_of_blends(names: Sequence[str], found: Found, data: OofData, seen: Collected) -> dict[str, Weights]:
    """The members' weights in the ensembles made of some experiments; why one can't be looked into is noted."""
    weights = {}
    for name, ensemble in found.ensembles.items():
        if not {member.name for member in ensemble.members} & set(names):
            continue
        try:
            weights[name] = weights_in(ensemble, data)
        except UserError as error:
            seen.notes.append(f"the blend {name} is not looked into, its scores are its file's: {error}")
    return weights


def _judge_experiments(names: Sequence[str], found: Found, data: OofData, seen: Collected) -> None:
    for name, weights in zip(names, np.eye(len(names)), strict=True):
        seen.judged[name] = judge(data, weights, find_metric(found.runs[name].config.metric, data.task))
        seen.targets[name] = data.targets


def _look_into_blend(
    name: str, ensemble: Ensemble, weights: Weights, problem: Problem, ids: Sequence[str], seen: Collected
) -> dict[str, Any] | None:
    """A blend as inference decides it, by its file; returns its curve over joint thresholds."""
    metric = find_metric(ensemble.metric, ensemble.task)
    decision = Decision(ensemble.threshold, ensemble.min_labels, ensemble.max_labels)
    data, probabilities = problem.data, blend_in_order(ensemble, problem.data)
    score = decided_score(probabilities, data.targets, metric, decision)
    seen.classes[name] = _classes(probabilities, data, metric, decision, score)
    seen.galleries[name] = gallery(probabilities, data, ids, decision)
    if abs(score - ensemble.score) > ROUNDING:
        seen.notes.append(
            f"the blend {name} scores {score:.5f} on these labels and predictions, {ensemble.score:.5f} in its file: "
            "something was changed since the search"
        )
    if not metric.thresholded:
        return None
    joint = isinstance(ensemble.threshold, float) and not ensemble.min_labels and ensemble.max_labels is None
    title = name if joint else f"{name} (one threshold for all, no limits)"
    return _sweep(title, weights, metric, ensemble.prefix_thresholds[-1], problem)


def _classes(
    probabilities: Probabilities, data: OofData, metric: Metric, decision: Decision, score: float
) -> dict[str, Any]:
    """Every class of a model, and how its labels are decided."""
    table = class_table(probabilities, data, metric, decision)
    columns: dict[str, Any] = {
        "token": data.classes,
        "name": data.names,
        "images": table.images.tolist(),
        "predicted": table.predicted.tolist(),
        "precision": _rounded(table.precision),
        "recall": _rounded(table.recall),
        "score": _rounded(table.scores),
    }
    if decision.threshold is not None:
        used = np.broadcast_to(np.asarray(decision.threshold, dtype=np.float64), len(data.classes))
        columns["threshold"] = _rounded(used)
        columns["best_threshold"] = _rounded(table.best_threshold)
        columns["best_score"] = _rounded(table.best_score)
    return {"metric": metric.name, "score": score, **asdict(decision), "beta": table.beta, "columns": columns}


def _rounded(values: Any) -> list[float | None]:
    """Four digits; None for NaN, which JSON does not have."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _sweep(
    name: str, weights: Weights, metric: Metric, threshold: float | None, problem: Problem
) -> dict[str, Any] | None:
    """The score against the threshold, where the metric has one."""
    if threshold is None or problem.entries is None:
        return None
    highest = min(1.0, max(0.6, 2 * threshold))
    thresholds = np.unique(np.append(np.linspace(problem.entries.floor, highest, CURVE_POINTS), threshold))
    scores = Objective(problem.entries, metric.beta, metric.by_class).curve(weights, thresholds)
    return {
        "name": name,
        "metric": metric.name,
        "threshold": threshold,
        "x": np.round(thresholds, 5).tolist(),
        "y": np.round(scores, 5).tolist(),
    }


def _curves(run: Run) -> dict[str, Any]:
    """The learning curves of every fold."""
    folds = []
    for fold, rows in run.metrics.items():
        columns = {key: [row.get(key) for row in rows] for key in ("epoch", "train_loss", "valid_loss", "lr", "stage")}
        folds.append({"fold": fold, **columns, "score": [row.get(run.config.metric) for row in rows]})
    return {"name": run.name, "metric": run.config.metric, "folds": folds}


def _split(quality: FoldQuality) -> dict[str, Any]:
    """The table of `foldsmith folds`."""
    names = quality.classes.names
    folds = []
    for fold, images in enumerate(quality.images.tolist()):
        absent = quality.absent(fold)
        folds.append(
            {
                "fold": fold,
                "images": images,
                "share": images / int(quality.images.sum()),
                "groups": None if quality.groups is None else int(quality.groups[fold]),
                "absent": len(absent),
                "absent_names": [names[index] for index in absent[:NAMES_SHOWN]],
            }
        )
    common = np.flatnonzero(quality.totals >= len(quality.images))
    deviations = quality.deviations[common]
    return {
        "folds": folds,
        "rare": [names[index] for index in quality.rare],
        "empty": [names[index] for index in np.flatnonzero(quality.totals == 0)],
        "median_deviation": float(np.median(deviations)) if len(common) else None,
        "worst_deviation": float(deviations.max()) if len(common) else None,
        "worst_class": names[common[deviations.argmax()]] if len(common) else None,
    }

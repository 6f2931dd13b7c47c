"""Everything that the page shows, as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import foldsmith
from foldsmith.data.fold_quality import FoldQuality, fold_quality
from foldsmith.data.tables import Table, read_table
from foldsmith.ensemble.entries import choose_floor, read_entries
from foldsmith.ensemble.fit import Problem
from foldsmith.ensemble.honest import correlations
from foldsmith.ensemble.members import OofData
from foldsmith.ensemble.objective import Objective, Point
from foldsmith.errors import UserError
from foldsmith.metrics import Metric, find_metric
from foldsmith.report.gallery import Pictures, gallery
from foldsmith.report.judge import (
    ClassTable,
    Judged,
    blend_of,
    class_table,
    equal_weights,
    judge,
    oof_data,
    usual_threshold,
    weights_in,
)
from foldsmith.report.leaderboard import Line, as_json, leaderboard
from foldsmith.report.runs import Found, Run, find_runs

CURVE_POINTS = 60
NAMES_SHOWN = 12  # of classes that a fold lacks


@dataclass
class Collected:
    """What was judged so far, by the name of the model."""

    judged: dict[str, Judged] = field(default_factory=dict)
    targets: dict[str, Any] = field(default_factory=dict)
    classes: dict[str, Any] = field(default_factory=dict)
    galleries: dict[str, Any] = field(default_factory=dict)
    pictures: Pictures = field(default_factory=Pictures)
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
    return {
        "version": foldsmith.__version__,
        "notes": seen.notes,
        "leaderboard": as_json(lines),
        "curves": [_curves(found.runs[name]) for name in order if name in found.runs and found.runs[name].metrics],
        "groups": groups,
        "classes": {name: seen.classes[name] for name in order if name in seen.classes},
        "galleries": {name: seen.galleries[name] for name in order if name in seen.galleries},
        "pictures": seen.pictures.uris,
    }


def judge_runs(paths: Sequence[Path]) -> tuple[list[Line], list[str]]:
    """The leaderboard alone, and what could not be judged."""
    found = find_runs(paths)
    notes = list(found.notes)
    judged, targets = {}, {}
    for names in splits_of(found, notes):
        for name in names:
            data = oof_data([found.runs[name]])
            judged[name] = judge(data, equal_weights(1), find_metric(data.metric, data.task))
            targets[name] = data.targets
    return leaderboard(found, judged, targets), notes


def splits_of(found: Found, notes: list[str]) -> list[list[str]]:
    """Names of the experiments whose OOF files are complete, those of one split and class list together.

    What is wrong with the others goes into `notes`.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, run in found.runs.items():
        if not run.oof.is_file():
            continue
        try:
            data = oof_data([run])
        except UserError as error:
            notes.append(f"{name} is not judged: {error}")
            continue
        sidecar = data.members[0].sidecars[0]
        groups.setdefault((sidecar.folds_sha256, sidecar.classes_sha256), []).append(name)
    return list(groups.values())


def _group(names: list[str], found: Found, seen: Collected) -> dict[str, Any]:
    """The experiments of one split: each judged alone, then the ensembles made of them, curves and correlation."""
    runs = [found.runs[name] for name in names]
    data = oof_data(runs)
    table = read_table(runs[0].config)
    weights = {name: np.eye(len(names))[index] for index, name in enumerate(names)}
    blends = {}
    for name, ensemble in found.ensembles.items():
        try:
            blends[name] = weights[name] = weights_in(ensemble, data)
        except UserError as error:
            if {member.name for member in ensemble.members} & set(names):
                seen.notes.append(f"the blend {name} is not looked into: {error}")
    for name, of_member in weights.items():
        metric = found.ensembles[name].metric if name in blends else found.runs[name].config.metric
        _judge_model(name, data, of_member, find_metric(metric, data.task), (table, runs[0]), seen)

    entries = read_entries(data, choose_floor(data, 2.0, False))
    problem = Problem(data, find_metric(data.metric, data.task), entries, entries, Point(equal_weights(1), None, 0.0))
    quality = fold_quality(table, data.fold_of, int(data.fold_of.max()) + 1)
    return {
        "members": names,
        "correlation": np.round(correlations(problem), 4).tolist(),
        "blends": {name: np.round(each, 6).tolist() for name, each in blends.items()},
        "sweeps": [_sweep(name, each, seen.judged[name], problem) for name, each in weights.items()],
        "split": _split(quality),
    }


def _judge_model(
    name: str, data: OofData, weights: Any, metric: Metric, source: tuple[Table, Run], seen: Collected
) -> None:
    """Score one model, and keep its classes and its gallery."""
    table, run = source
    judged = seen.judged[name] = judge(data, weights, metric)
    probabilities = blend_of(data, weights)
    seen.targets[name] = data.targets
    threshold = usual_threshold(probabilities, data, judged)
    seen.classes[name] = _classes(class_table(probabilities, data, metric, threshold), data, threshold)
    seen.galleries[name] = gallery(probabilities, data, table, run.config, threshold, seen.pictures)


def _classes(table: ClassTable, data: OofData, threshold: float | None) -> dict[str, Any]:
    columns: Mapping[str, Any] = {
        "token": data.classes,
        "name": data.names,
        "images": table.images.tolist(),
        "predicted": table.predicted.tolist(),
        "precision": _rounded(table.precision),
        "recall": _rounded(table.recall),
        "score": _rounded(table.scores),
        "best_threshold": _rounded(table.best_threshold),
        "best_score": _rounded(table.best_score),
    }
    return {"beta": table.beta, "threshold": threshold, "columns": columns}


def _rounded(values: Any) -> list[float | None]:
    """Four digits; None for NaN, which JSON does not have."""
    return [None if np.isnan(value) else round(float(value), 4) for value in values]


def _sweep(name: str, weights: Any, judged: Judged, problem: Problem) -> dict[str, Any] | None:
    """The score against the threshold, where the metric has one."""
    if judged.threshold is None or problem.entries is None:
        return None
    metric = judged.metric
    highest = min(1.0, max(0.6, 2 * judged.threshold))
    thresholds = np.unique(np.append(np.linspace(problem.entries.floor, highest, CURVE_POINTS), judged.threshold))
    scores = Objective(problem.entries, metric.beta, metric.by_class).curve(weights, thresholds)
    return {
        "name": name,
        "metric": metric.name,
        "threshold": judged.threshold,
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

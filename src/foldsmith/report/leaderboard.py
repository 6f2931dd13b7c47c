"""The table of experiments and blends: score with interval, held-out score, time, and which keys differ."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foldsmith.ensemble.file import Ensemble
from foldsmith.errors import UserError
from foldsmith.metrics import find_metric
from foldsmith.report.judge import Judged, interval, resampled
from foldsmith.report.runs import Found, Run
from foldsmith.training.folder import flat_keys

# Of no interest when experiments are compared: where things lie.
PLACES = ("data.root", "data.train_csv", "data.train_dir", "data.test_dir", "data.labels_csv", "data.sample_submission")


@dataclass(frozen=True)
class Line:
    """One experiment or blend. None: not known, or there is no such thing."""

    name: str
    kind: str  # "experiment", "blend"
    metric: str
    score: float | None  # OOF at its best threshold; before prediction the mean of the folds' best epochs
    low: float | None  # 95 % of the resamples of the held-out score
    high: float | None
    nested: float | None  # held out: the threshold (and weights) fitted without the fold
    threshold: float | None
    folds: str  # "3/5 trained", "5/5"
    epochs: float | None  # of a fold, their mean
    seconds: float | None  # of training and validation, all folds
    train_speed: float | None  # images a second, the median of the epochs
    predict_speed: float | None  # images a second of a fold with all views
    device: str
    differs: dict[str, Any]  # keys whose values are not the same in all experiments
    larger_is_better: bool = True


def leaderboard(found: Found, judged: Mapping[str, Judged], targets: Mapping[str, Any]) -> list[Line]:
    """A line for every experiment and ensemble, the best first.

    Args:
        judged: by the name of the experiment, those whose OOF files are complete.
        targets: bool (images, classes) of each of them.
    """
    differing = differing_values(list(found.runs.values()))
    lines = [_experiment(run, judged.get(name), targets.get(name), differing[name]) for name, run in found.runs.items()]
    lines += [_blend(name, ensemble, found) for name, ensemble in found.ensembles.items()]
    return sorted(lines, key=_rank)


def _rank(line: Line) -> tuple[bool, str, float]:
    comparable = line.score if line.score is not None else -np.inf if line.larger_is_better else np.inf
    return line.low is None, line.metric, -comparable if line.larger_is_better else comparable


def _experiment(run: Run, judged: Judged | None, targets: Any, differs: dict[str, Any]) -> Line:
    metric = find_metric(run.config.metric, run.config.data.task)
    sidecars = _sidecars(run)
    trained, folds = len(run.metrics), run.config.data.num_folds
    low, high = interval(resampled([judged], targets)[0]) if judged is not None else (None, None)
    timings = [row for rows in run.timings.values() for row in rows]
    speeds = [row["train_images_per_second"] for row in timings if "train_images_per_second" in row]
    predicted = [sidecar.speed["images_per_second"] for sidecar in sidecars if "images_per_second" in sidecar.speed]
    return Line(
        name=run.name,
        kind="experiment",
        metric=metric.name,
        score=judged.score if judged else _validation_score(run, metric.larger_is_better),
        low=low,
        high=high,
        nested=judged.nested if judged else None,
        threshold=judged.threshold if judged else None,
        folds=f"{folds}/{folds}" if judged else f"{trained}/{folds} begun, {len(sidecars)}/{folds} predicted",
        epochs=float(np.mean([len(rows) for rows in run.metrics.values()])) if run.metrics else None,
        seconds=sum(row.get("train_seconds", 0) + row.get("valid_seconds", 0) for row in timings) or None,
        train_speed=float(np.median(speeds)) if speeds else None,
        predict_speed=float(np.median(predicted)) if predicted else None,
        device=str(sidecars[0].speed.get("device", "")) if sidecars else "",
        differs=differs,
        larger_is_better=metric.larger_is_better,
    )


def _sidecars(run: Run) -> list[Any]:
    try:
        return run.sidecars()
    except UserError:  # a damaged one: judging the run says so
        return []


def _validation_score(run: Run, larger_is_better: bool) -> float | None:
    """The mean over folds of the best epoch's score."""
    best = max if larger_is_better else min
    name = run.config.metric
    scores = [
        best(row[name] for row in rows if name in row)
        for rows in run.metrics.values()
        if any(name in row for row in rows)
    ]
    return float(np.mean(scores)) if scores else None


def _blend(name: str, ensemble: Ensemble, found: Found) -> Line:
    low, high = ensemble.score_interval or (None, None)
    members = [found.runs[member.name] for member in ensemble.members if member.name in found.runs]
    speeds = [member.images_per_second for member in ensemble.members]
    together = None if None in speeds else 1 / sum(1 / speed for speed in speeds if speed)
    timings = [row for run in members for rows in run.timings.values() for row in rows]
    return Line(
        name=name,
        kind="blend",
        metric=ensemble.metric,
        score=ensemble.score,
        low=low,
        high=high,
        nested=ensemble.nested_score,
        threshold=ensemble.threshold if isinstance(ensemble.threshold, float) else None,
        folds=f"{len(ensemble.members)} members",
        epochs=None,
        seconds=sum(row.get("train_seconds", 0) + row.get("valid_seconds", 0) for row in timings) or None,
        train_speed=None,
        predict_speed=together,
        device="",
        differs={member.name: round(member.weight, 4) for member in ensemble.members},
        larger_is_better=find_metric(ensemble.metric, ensemble.task).larger_is_better,
    )


def differing_values(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Of every run, the values of the config keys that are not the same in all of them."""
    flat = {run.name: flat_keys(run.config.model_dump(mode="json")) for run in runs}
    keys = sorted({key for values in flat.values() for key in values if key not in PLACES})
    different = [key for key in keys if len({repr(values.get(key)) for values in flat.values()}) > 1]
    return {name: {key: values[key] for key in different if key in values} for name, values in flat.items()}


def as_text(lines: Sequence[Line]) -> str:
    """The leaderboard for the terminal."""
    rows = [["", "experiment", "metric", "score", "95 %", "held out", "epochs", "time", "train/s", "predict/s", ""]]
    for place, line in enumerate(lines, start=1):
        spread = "" if line.low is None or line.high is None else f"{line.low:.4f} .. {line.high:.4f}"
        rows.append(
            [
                str(place),
                line.name,
                line.metric,
                _number(line.score, ".4f"),
                spread,
                _number(line.nested, ".4f"),
                _number(line.epochs, "g"),
                _duration(line.seconds),
                _number(line.train_speed, ".0f"),
                _number(line.predict_speed, ".0f"),
                _words(line),
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = {1, 2, len(widths) - 1}
    return "\n".join(
        "  ".join(
            text.ljust(width) if column in left else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The leaderboard for scripts: the fields of `Line`, the best first."""
    return [asdict(line) for line in lines]


def _words(line: Line) -> str:
    differs = "  ".join(f"{key}={value}" for key, value in line.differs.items())
    return differs if line.low is not None or line.kind == "blend" else f"{line.folds}  {differs}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"

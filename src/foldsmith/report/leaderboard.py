"""The table of experiments and blends: score with interval, held-out score, time, and which keys differ."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from textwrap import wrap
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

HEADINGS = ["", "experiment", "metric", "score", "held out", "95 %", "validation", "threshold", "epochs", "time"]
HEADINGS += ["train/s", "predict/s", "differs in"]
SINGLE = "(held out, the best single is better)"
WAITING = "\nnot predicted yet: no place; by validation score, that of the best epochs at their own best thresholds"


@dataclass(frozen=True)
class Line:
    """One experiment or blend. None: not known, or there is no such thing."""

    name: str
    kind: str  # "experiment", "blend"
    metric: str
    larger_is_better: bool
    folds: str  # "5/5"; "4/5 begun, 3/5 predicted"; "3 members"
    place: int | None = None  # among the models of the same metric that have an out-of-fold score
    score: float | None = None  # out of fold: of OOF predictions, at the threshold that is best for all of them
    nested: float | None = None  # held out: the threshold (and weights) fitted without the fold
    low: float | None = None  # 95 % of the resamples of the held-out score
    high: float | None = None
    validation_score: float | None = None  # of the best epochs, each at its own threshold; the folds' mean
    threshold: float | list[float] | None = None
    min_labels: int = 0  # of an image
    max_labels: int | None = None
    epochs: float | None = None  # of a fold, their mean
    seconds: float | None = None  # of training and validation, all folds; of a blend, all members
    train_speed: float | None = None  # images a second, the median of the epochs; a blend is not trained
    predict_speed: float | None = None  # images a second of a fold with all views; of a blend, of a fold of each member
    device: str = ""
    differs: dict[str, Any] = field(default_factory=dict)  # keys whose values are not the same in all experiments
    weights: dict[str, float] = field(default_factory=dict)  # of a blend's members
    single_is_better: bool = False  # held out, the best member alone beats the blend


def leaderboard(found: Found, judged: Mapping[str, Judged], targets: Mapping[str, Any]) -> list[Line]:
    """A line for every experiment and ensemble.

    By metric, the best out-of-fold score first; then those that are not predicted yet, the best validation score
    first: they have no place, for such a score is that of the best of many epochs at the best of many thresholds.

    Args:
        judged: by the name of the experiment, those whose OOF files are complete.
        targets: bool (images, classes) of each of them.
    """
    differing = differing_values(list(found.runs.values()))
    lines = [_experiment(run, judged.get(name), targets.get(name), differing[name]) for name, run in found.runs.items()]
    lines += [_blend(name, ensemble, found) for name, ensemble in found.ensembles.items()]
    lines.sort(key=_rank)
    places: Counter[str] = Counter()
    for number, line in enumerate(lines):
        if line.score is not None:
            places[line.metric] += 1
            lines[number] = replace(line, place=places[line.metric])
    return lines


def _rank(line: Line) -> tuple[bool, str, float]:
    score = line.validation_score if line.score is None else line.score
    if score is None:
        return True, line.metric, np.inf
    return line.score is None, line.metric, -score if line.larger_is_better else score


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
        larger_is_better=metric.larger_is_better,
        folds=f"{folds}/{folds}" if judged else f"{trained}/{folds} begun, {len(sidecars)}/{folds} predicted",
        score=judged.score if judged else None,
        nested=judged.nested if judged else None,
        low=low,
        high=high,
        validation_score=_validation_score(run, metric.larger_is_better),
        threshold=judged.threshold if judged else None,
        epochs=float(np.mean([len(rows) for rows in run.metrics.values()])) if run.metrics else None,
        seconds=_seconds(run),
        train_speed=float(np.median(speeds)) if speeds else None,
        predict_speed=float(np.median(predicted)) if predicted else None,
        device=str(sidecars[0].speed.get("device", "")) if sidecars else "",
        differs=differs,
    )


def _sidecars(run: Run) -> list[Any]:
    try:
        return run.sidecars()
    except UserError:  # a damaged one: judging the run says so
        return []


def _seconds(run: Run) -> float | None:
    """Of training and validation, all folds."""
    timings = [row for rows in run.timings.values() for row in rows]
    return sum(row.get("train_seconds", 0) + row.get("valid_seconds", 0) for row in timings) or None


def _validation_score(run: Run, larger_is_better: bool) -> float | None:
    """The mean over folds of the best epoch's score; of the last stage's epochs, whose best gives the weights."""
    best, name = max if larger_is_better else min, run.config.metric
    scores = []
    for rows in run.metrics.values():
        last = rows[-1].get("stage")
        if of_stage := [row[name] for row in rows if name in row and row.get("stage") == last]:
            scores.append(best(of_stage))
    return float(np.mean(scores)) if scores else None


def _blend(name: str, ensemble: Ensemble, found: Found) -> Line:
    low, high = ensemble.score_interval or (None, None)
    times = [_seconds(found.runs[each.name]) if each.name in found.runs else None for each in ensemble.members]
    speeds = [member.images_per_second for member in ensemble.members]
    return Line(
        name=name,
        kind="blend",
        metric=ensemble.metric,
        larger_is_better=find_metric(ensemble.metric, ensemble.task).larger_is_better,
        folds=f"{len(ensemble.members)} members",
        score=ensemble.score,
        nested=ensemble.nested_score,
        low=low,
        high=high,
        threshold=ensemble.threshold,
        min_labels=ensemble.min_labels,
        max_labels=ensemble.max_labels,
        seconds=sum(time for time in times if time) if all(times) else None,
        predict_speed=1 / sum(1 / speed for speed in speeds if speed) if all(speeds) else None,
        weights={member.name: member.weight for member in ensemble.members},
        single_is_better=ensemble.single_is_better(),
    )


def differing_values(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """Of every run, the values of the config keys that are not the same in all of them."""
    flat = {run.name: flat_keys(run.config.model_dump(mode="json")) for run in runs}
    keys = sorted({key for values in flat.values() for key in values if key not in PLACES})
    different = [key for key in keys if len({repr(values.get(key)) for values in flat.values()}) > 1]
    return {name: {key: values[key] for key in different if key in values} for name, values in flat.items()}


def as_text(lines: Sequence[Line], width: int | None = None) -> str:
    """The leaderboard for the terminal: the ranked models, then those that are not predicted yet.

    Args:
        width: of the terminal, in letters: the columns that do not fit it, and always the keys that differ, then stand
            on indented lines below each model. None: one line a model, however long.
    """
    ranked = [line for line in lines if line.score is not None]
    waiting = [line for line in lines if line.score is None]
    rows = [HEADINGS, *map(_cells, (*ranked, *waiting))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    count = len(widths) if width is None else _fitting(widths[:-1], width)
    left = {HEADINGS.index(heading) for heading in ("experiment", "metric")} | {len(HEADINGS) - 1}
    table = []
    for row in rows:
        cells = zip(row[:count], widths, strict=False)
        padded = [text.ljust(size) if column in left else text.rjust(size) for column, (text, size) in enumerate(cells)]
        table.append("\n".join(["  ".join(padded).rstrip(), *(_below(row, count, width) if width else [])]))
    if waiting:
        said = WAITING if width is None else "\n" + "\n".join(wrap(WAITING.strip(), width))
        table.insert(len(ranked) + 1, said if ranked else said.lstrip("\n"))
    return "\n".join(table)


def _fitting(widths: Sequence[int], width: int) -> int:
    """How many columns fit, at least the place and the name."""
    ends = np.cumsum(widths) + 2 * np.arange(len(widths))
    return max(2, int((ends <= width).sum()))


def _below(row: list[str], count: int, width: int) -> list[str]:
    """The cells after the first `count`, each with its heading, and the keys that differ, as lines of the terminal."""
    if row is HEADINGS:
        return []
    pairs = zip(HEADINGS[count:-1], row[count:-1], strict=True)
    texts = [", ".join(f"{heading} {text}" for heading, text in pairs if text != "-"), row[-1]]
    style: dict[str, Any] = {"initial_indent": "    ", "subsequent_indent": "    ", "break_on_hyphens": False}
    return [line for text in texts for line in wrap(text, max(width, 24), **style)]


def _cells(line: Line) -> list[str]:
    limits = [f"at least {line.min_labels}"] if line.min_labels else []
    limits += [] if line.max_labels is None else [f"at most {line.max_labels}"]
    return [
        "-" if line.place is None else str(line.place),
        line.name,
        line.metric,
        _number(line.score, ".4f"),
        _number(line.nested, ".4f"),
        "-" if line.low is None or line.high is None else f"{line.low:.4f} .. {line.high:.4f}",
        _number(line.validation_score, ".4f"),
        ", ".join([_number(line.threshold, ".4f"), *limits]),
        _number(line.epochs, "g"),
        _duration(line.seconds),
        _number(line.train_speed, ".0f"),
        _number(line.predict_speed, ".0f"),
        _words(line),
    ]


def as_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The leaderboard for scripts: the fields of `Line`, the best first."""
    return [asdict(line) for line in lines]


def _words(line: Line) -> str:
    if line.kind == "blend":
        weights = [f"{name}={weight:.4f}" for name, weight in line.weights.items()]
        return "  ".join([*weights, *([SINGLE] if line.single_is_better else [])])
    differs = "  ".join(f"{key}={_value(value)}" for key, value in line.differs.items())
    return differs if line.score is not None else f"{line.folds}  {differs}"


def _value(value: Any) -> str:
    """A config's value as its file has it: 2 for the float 2.0."""
    return value if isinstance(value, str) else json.dumps(_whole(value), ensure_ascii=False, separators=(",", ":"))


def _whole(value: Any) -> Any:
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: float | list[float] | None, form: str) -> str:
    if isinstance(value, list):
        return "by class"
    return "-" if value is None else format(value, form)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{seconds / 3600:.1f} h"

"""Two experiments side by side: what differs in the configs, in the score, and class by class."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.honest import ROUNDING
from foldsmith.errors import UserError
from foldsmith.metrics import find_metric
from foldsmith.report.judge import (
    ClassTable,
    Judged,
    blend_of,
    class_table,
    interval,
    judge,
    oof_data,
    resampled,
    usual_decision,
)
from foldsmith.report.leaderboard import differing_values
from foldsmith.report.runs import Run, read_run


@dataclass(frozen=True)
class Comparison:
    """Two runs, a and b. `drawn` are resamples of b's held-out score minus a's, the same images drawn for both."""

    runs: tuple[Run, Run]
    judged: tuple[Judged, Judged]
    drawn: NDArray[np.float64]
    classes: tuple[ClassTable, ClassTable]
    names: list[str]

    @property
    def gain(self) -> float:
        """The held-out score of b minus that of a."""
        return self.judged[1].nested - self.judged[0].nested

    @property
    def class_gains(self) -> NDArray[np.float64]:
        """F-beta of every class in b minus that in a."""
        return self.classes[1].scores - self.classes[0].scores


def compare(a: Path, b: Path) -> Comparison:
    """Judge two runs of one split on the same images.

    Raises:
        UserError: OOF files are missing or of other images, classes or folds; or the metrics differ.
    """
    runs = (read_run(a), read_run(b))
    if runs[0].config.metric != runs[1].config.metric:
        what = f"{runs[0].config.metric} in {a}, {runs[1].config.metric} in {b}"
        raise UserError(f"the experiments go by different metrics: {what}", key="metric")
    data = oof_data(runs)
    if len(data.members) < 2:
        raise UserError(f"{a} and {b} are the same experiment", hint="name two")
    metric = find_metric(data.metric, data.task)
    judged, classes = [], []
    for index in range(2):
        judged.append(judge(data, np.eye(2)[index], metric))
        probabilities = blend_of(data, np.eye(2)[index])
        decision = usual_decision(probabilities, data, judged[-1])
        classes.append(class_table(probabilities, data, metric, decision))
    scores = resampled(judged, data.targets)
    return Comparison(runs, (judged[0], judged[1]), scores[1] - scores[0], (classes[0], classes[1]), data.names)


def as_text(found: Comparison, shown: int) -> str:
    """The comparison for the terminal; of the classes the `shown` that gain and lose the most."""
    a, b = (run.name for run in found.runs)
    lines = [f"{'':<34} {a}  ->  {b}"]
    differing = differing_values(found.runs)
    lines += [f"{key:<34} {differing[a].get(key, '-')}  ->  {differing[b].get(key, '-')}" for key in _keys(differing)]
    if len(lines) == 1:
        lines.append("no config key differs")
    lines += ["", *_scores(found), "", *_winners(found, shown)]
    return "\n".join(lines)


def _keys(differing: dict[str, dict[str, object]]) -> list[str]:
    return sorted({key for values in differing.values() for key in values})


def _scores(found: Comparison) -> list[str]:
    metric, (first, second), (a, b) = found.judged[0].metric, found.judged, (run.name for run in found.runs)
    low, high = interval(found.drawn)
    sign = 1 if metric.larger_is_better else -1
    wins = float((sign * found.drawn > ROUNDING).mean())
    if low <= 0 <= high:
        verdict = "not clear which is better: the interval holds 0"
    else:
        verdict = f"{b if sign * low > 0 else a} is clearly better: the interval does not hold 0"
    better = "larger" if metric.larger_is_better else "smaller"
    lines = [
        f"{metric.name}, the {better} the better",
        f"{'out of fold':<34} {first.score:.5f}  ->  {second.score:.5f}",
    ]
    kind = "held out" if metric.thresholded else "out of fold"  # the first score's threshold was fitted to its images
    if metric.thresholded:
        lines.append(f"{kind:<34} {first.nested:.5f}  ->  {second.nested:.5f}")
    of_resamples = f"95 % of {len(found.drawn)} paired resamples {low:+.5f} .. {high:+.5f}"
    lines.append(f"{f'{kind}, {b} minus {a}':<34} {found.gain:+.5f}, {of_resamples}")
    return [*lines, f"{b} is better in {wins:.1%} of the resamples; {verdict}"]


def _winners(found: Comparison, shown: int) -> list[str]:
    gains, images = found.class_gains, found.classes[0].images
    better, worse = int((gains > 0).sum()), int((gains < 0).sum())
    beta = f"F{found.classes[0].beta:g}"
    a, b = (run.name for run in found.runs)
    lines = [f"classes by {beta}: {better} better in {b}, {worse} better in {a}, {len(gains) - better - worse} equal"]
    order = np.argsort(-gains, kind="stable")
    chosen = [index for index in order[:shown] if gains[index] > 0]
    chosen += [index for index in order[::-1][:shown][::-1] if gains[index] < 0]
    width = max([5, *(len(found.names[index]) for index in chosen)])
    lines += [f"{'class':<{width}}  images  {a} -> {b}"] if chosen else []
    for index in chosen:
        first, second = (table.scores[index] for table in found.classes)
        name = found.names[index]
        lines.append(f"{name:<{width}}  {images[index]:6}  {first:.3f} -> {second:.3f}  {gains[index]:+.3f}")
    return lines

"""What was found, as an ensemble file, as text and as a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.ensemble.budget import Choice, prior_labels
from foldsmith.ensemble.file import Ensemble, Member
from foldsmith.ensemble.fit import Problem
from foldsmith.ensemble.honest import Worth
from foldsmith.ensemble.objective import DenseObjective, Objective, Point, blended, taking_part
from foldsmith.ensemble.threads import in_threads
from foldsmith.ensemble.thresholds import Rule
from foldsmith.metrics import Best, best_fbeta


@dataclass(frozen=True)
class Report:
    """A blend and what is known of it. Scores of points are the larger the better, whatever the metric."""

    point: Point
    score: float  # under thresholds of their own and limits, where there are such
    threshold: float | list[float] | None
    uniform: Point
    singles: list[Point]
    without: NDArray[np.float64]  # (members,) what the score loses without each
    correlation: NDArray[np.float64]  # (members, members)
    worth: Worth


def describe(
    problem: Problem,
    report: Report,
    rule: Rule,
    folds: Sequence[int],
    ips: Sequence[float | None],
    hours: float | None,
) -> Ensemble:
    """The ensemble file's content.

    Args:
        folds: how many folds of each member are run.
        ips: images a second of each member, where known.
        hours: predicted for all of them.
    """
    natural, data, held = problem.natural, problem.data, report.worth
    order = taking_part(report.point.weights)
    thresholds = _prefix_thresholds(problem, report.point, order)
    threshold = report.threshold
    if threshold is None and data.task == "multilabel":
        threshold = thresholds[-1]
    return Ensemble(
        task=data.task,  # type: ignore[arg-type]
        metric=problem.metric.name,
        score=natural(report.score),
        nested_score=held.nested["blend"],
        nested_single_score=held.nested["single"],
        uniform_score=natural(report.uniform.score),
        best_single_score=natural(max(point.score for point in report.singles)),
        score_interval=held.intervals["blend"],
        uniform_interval=held.intervals["uniform"],
        best_single_interval=held.intervals["single"],
        beats_uniform=held.beats["uniform"],
        beats_best_single=held.beats["single"],
        hours=None if hours is None else round(hours, 3),
        threshold=threshold,
        min_labels=rule.min_labels,
        max_labels=rule.max_labels,
        classes_sha256=data.classes_sha256,
        prior=[data.classes[index] for index in prior_labels(problem)],
        members=[_member(problem, report, index, folds[index], ips[index]) for index in order],
        prefix_thresholds=thresholds,
    )


def _member(problem: Problem, report: Report, index: int, folds: int, ips: float | None) -> Member:
    member, others = problem.data.members[index], np.arange(len(problem.data.members)) != index
    return Member(
        name=member.name,
        weight=float(report.point.weights[index]),
        views=member.views,
        merge=member.sidecars[0].merge if member.sidecars else "mean",
        oof=[file.name for file in member.files],
        weights=[file.with_suffix(".safetensors").name for file in member.files[: folds if member.sidecars else 0]],
        sha256=[sidecar.weights_sha256 for sidecar in member.sidecars[:folds]],
        single_score=problem.natural(report.singles[index].score),
        leave_one_out_loss=float(report.without[index]),
        correlation=round(float(report.correlation[index][others].mean()), 6) if others.any() else None,
        images_per_second=ips,
    )


def _prefix_thresholds(problem: Problem, point: Point, order: list[int]) -> list[float]:
    """The best joint threshold of the first 1, 2, ... members; F2's where the metric of a multi-label task has none."""
    if problem.data.task == "multiclass":
        return []
    exact = problem.exact
    matrices = exact.matrices if isinstance(exact, DenseObjective) else []

    def threshold(count: int) -> float:
        weights = np.where(np.isin(np.arange(len(point.weights)), order[:count]), point.weights, 0)
        if isinstance(exact, Objective):
            best = exact.best(weights)[0] if count < len(order) else Best(point.score, point.threshold)
        else:
            best = best_fbeta(blended(matrices, weights), problem.data.targets)
        assert best.threshold is not None
        return best.threshold

    return in_threads(threshold, range(1, len(order) + 1))


def print_methods(
    problem: Problem, found: Mapping[str, Point], candidates: Mapping[str, Point], won: str, method: str
) -> None:
    """Which method won, and what the others found."""
    if len(found) > 1:
        listed = sorted(found.items(), key=lambda item: -item[1].score)
        print(", ".join(f"{name} {problem.natural(point.score):.5f}" for name, point in listed))
    if "given" in candidates:
        print(f"the weights given score {problem.natural(candidates['given'].score):.5f}")
    same = [name for name, point in found.items() if name != "auto" and point is found.get("auto")]
    print(f"best: {won}{f' (by {same[0]})' if won == method == 'auto' and same else ''}")


def print_frontier(points: Sequence[Choice], problem: Problem) -> None:
    """Score against hours, one fold of each model."""
    print("hours (one fold each)   score    models")
    for choice in points:
        names = ", ".join(problem.data.members[index].name for index in choice.members)
        print(f"{choice.hours:21.2f}   {problem.natural(choice.point.score):.5f}  {names}")


def print_report(problem: Problem, report: Report, ensemble: Ensemble, path: Path) -> None:
    """The table of members, the scores, and what they are worth."""
    names = [member.name for member in problem.data.members]
    width = max(6, *map(len, names))
    title = problem.metric.name
    print(f"{'member':<{width}}  weight   {title:<8} loss without  correlation")
    for index, name in enumerate(names):
        others = report.correlation[index][np.arange(len(names)) != index]
        single = problem.natural(report.singles[index].score)
        mean = f"{others.mean():.3f}" if len(others) else "-"
        weight, without = report.point.weights[index], report.without[index]
        print(f"{name:<{width}}  {weight:.4f}   {single:.5f}  {without:11.5f}  {mean:>11}")
    held = report.worth
    at = f" at threshold {ensemble.threshold:.4f}" if isinstance(ensemble.threshold, float) else ""
    print(f"{'':<12} {title:<8} held out (95 % of resamples)")
    for label, kind, score in (
        ("blend", "blend", ensemble.score),
        ("equal weights", "uniform", ensemble.uniform_score),
        ("best single", "single", ensemble.best_single_score),
    ):
        low, high = held.intervals[kind]
        print(
            f"{label:<13} {score:.5f}  {held.nested[kind]:.5f} ({low:.5f} .. {high:.5f}){at if kind == 'blend' else ''}"
        )
    print(
        f"held out, the blend beats equal weights in {held.beats['uniform']:.1%} of resamples, "
        f"the best single in {held.beats['single']:.1%}"
    )
    print("".join(f"{sentence}\n" for sentence in _advice(problem, report, ensemble)), end="")
    if ensemble.hours is not None:
        listed = ", ".join(f"{member.name} {len(member.weights)} folds" for member in ensemble.members)
        print(f"predicted: {ensemble.hours:.2f} hours ({listed})")
    print(f"written: {path} and {path.with_suffix('.png')}")


def _advice(problem: Problem, report: Report, ensemble: Ensemble) -> list[str]:
    """What to think of the blend, in sentences that don't contradict each other."""
    names, held = [member.name for member in problem.data.members], report.worth
    sign = 1 if problem.metric.larger_is_better else -1
    equal = [held.sentence()] if held.sentence() and len(names) > 1 else []
    if not ensemble.single_is_better():
        return equal
    best = names[int(np.argmax([point.score for point in report.singles]))]
    single = (
        f"Member {best} alone is better held out: on images that neither was fitted to, the best single scores "
        f"{held.nested['single']:.5f}, the blend {held.nested['blend']:.5f}."
    )
    return [single] if sign * (held.nested["single"] - held.nested["uniform"]) > 0 else [single, *equal]


def draw_report(path: Path, problem: Problem, report: Report) -> None:
    """The picture beside the ensemble file."""
    from foldsmith.ensemble.pictures import draw

    curves = {}
    objective = problem.objective()
    if isinstance(objective, Objective) and report.point.threshold is not None:
        low = max(objective.floor, report.point.threshold - 0.15)
        thresholds = np.unique(np.append(np.linspace(low, report.point.threshold + 0.15, 18), report.point.threshold))
        curves["blend"] = (thresholds, objective.curve(report.point.weights, thresholds))
        if objective.members > 1:
            curves["equal weights"] = (thresholds, objective.curve(report.uniform.weights, thresholds))
    names = [member.name for member in problem.data.members]
    weights, threshold = report.point.weights, report.point.threshold
    draw(path, names, report.correlation, weights, problem.metric.name, curves, threshold)

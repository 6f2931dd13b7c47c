"""The blend search from OOF files to an ensemble file: read, fit, choose within the budget, judge, write, draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from foldsmith.ensemble import budget
from foldsmith.ensemble.file import FORMAT, write_ensemble
from foldsmith.ensemble.fit import Problem, pose, prove, search_blend
from foldsmith.ensemble.honest import correlations, leave_one_out, worth
from foldsmith.ensemble.members import OofData, load_members
from foldsmith.ensemble.objective import Point, Weights, normalized
from foldsmith.ensemble.older import is_older_name, load_older_members, read_list_format
from foldsmith.ensemble.optimizers import METHODS
from foldsmith.ensemble.report import Report, describe, draw_report, print_frontier, print_methods, print_report
from foldsmith.ensemble.thresholds import Rule, groups_of
from foldsmith.errors import UserError, did_you_mean
from foldsmith.metrics import Metric, find_metric


@dataclass(frozen=True)
class Options:
    """What the command line can ask for."""

    method: str = "auto"
    seconds: float = 10.0
    metric: str | None = None  # None: that of the first member's experiment
    thresholds: str = "joint"  # per-class, per-group
    min_labels: int = 0  # of an image
    max_labels: int | None = None
    folds: Path | None = None  # of the older layout
    train_csv: Path | None = None
    max_hours: float | None = None
    num_images: int | None = None
    speeds: Mapping[str, float] = field(default_factory=dict)


def search(target: str, oof: Sequence[Path], options: Options | None = None) -> Path:
    """Find the best blend, write `<target>.yml` and `<target>.png`, and print what was found.

    Args:
        target: name or path of the ensemble file, with or without ".yml".
        oof: one OOF file a model, or an ensemble file of the older list format.

    Raises:
        UserError: something is wrong with the files or the options; nothing is written then.
    """
    options = options or Options()
    path = _checked_target(target)
    _check(options)
    data, given = _load(oof, options)
    metric = find_metric(options.metric or data.metric, data.task)
    rule = _rule(data, metric, options)
    ips = budget.speeds(data.members, options.speeds)
    cost = [] if options.max_hours is None else budget.hours_of_a_fold(data.members, ips, options.num_images or 0)

    problem = pose(data, metric)
    best = _best_of_all(problem, options, given)
    folds, hours = [len(data.members[0].files)] * len(data.members), None
    if options.max_hours is not None:
        found = budget.choices(problem, cost, best, options.seconds / 4)
        choice = budget.within(found, options.max_hours)
        print_frontier(budget.frontier(found), problem)
        folds_of = budget.folds_within(choice, cost, folds[0], options.max_hours)
        kept = sorted(folds_of)
        folds, ips = [folds_of[index] for index in kept], [ips[index] for index in kept]
        hours = sum(folds_of[index] * cost[index] for index in kept)
        problem = problem.only(kept)
        best = prove(problem, normalized(choice.point.weights[kept]))

    # The members as they will run, and the threshold and score of their sum in that order.
    order = budget.running_order(problem, best, budget.seconds_of(ips, folds))
    folds, ips = [folds[index] for index in order], [ips[index] for index in order]
    problem = problem.only(order)
    best = prove(problem, best.weights[order])
    report = _judge(problem, best, rule, options)
    ensemble = describe(problem, report, rule, folds, ips, hours)
    draw_report(path.with_suffix(".png"), problem, report)
    write_ensemble(path, ensemble)  # last: whatever fails leaves the old one
    print_report(problem, report, ensemble, path)
    return path


def _best_of_all(problem: Problem, options: Options, given: Weights | None) -> Point:
    """The best of what the method found, equal weights, each single, and the weights that were given."""
    names = [member.name for member in problem.data.members]
    method = options.method if len(names) > 1 else "uniform"
    best, found = search_blend(problem, method, options.seconds)
    singles = dict(zip(names, problem.singles, strict=True))
    candidates = {**singles, "uniform": problem.start, method: best}  # of equal scores the simpler one
    if given is not None:
        candidates["given"] = prove(problem, normalized(given))
    won = max(candidates, key=lambda name: candidates[name].score)
    print_methods(problem, found, candidates, won, method)
    return best if won == method else prove(problem, candidates[won].weights)


def _judge(problem: Problem, best: Point, rule: Rule, options: Options) -> Report:
    """All that is to be said about a blend."""
    thresholds, score = best.threshold, best.score
    if not rule.is_joint:
        assert best.threshold is not None
        print("thresholds of their own and limits are fitted to whole blends: the files are read again for each")
        blend = problem.blend(best.weights)
        fitted = rule.fit(blend, problem.data.targets, problem.metric, best.threshold)
        score = float(rule.row_scores(blend, problem.data.targets, problem.metric, fitted).mean())
        thresholds = fitted.tolist()
    return Report(
        point=best,
        score=score,
        threshold=thresholds,
        uniform=problem.start,
        singles=problem.singles,
        without=leave_one_out(problem, best),
        correlation=correlations(problem),
        worth=worth(problem, options.method, options.seconds, rule),
    )


def _checked_target(target: str) -> Path:
    """The file to write, once it is known that it can be."""
    if target.endswith(".npy"):
        raise UserError(f"{target!r} would be the ensemble's name", hint="ensemble_search.py NAME OOF.npy ...")
    path = Path(target if target.endswith((".yml", ".yaml")) else f"{target}.yml")
    if path.exists() and f"format: {FORMAT}" not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError("exists and is not an ensemble file; it is not overwritten", file=path)
    return path


def _check(options: Options) -> None:
    if options.method not in (*METHODS, "auto"):
        raise UserError(
            f"unknown method {options.method!r}", key="--method", hint=did_you_mean(options.method, METHODS)
        )
    for key, value in (("--seconds", options.seconds), ("--max-hours", options.max_hours)):
        if value is not None and not value > 0:
            raise UserError(f"expected a number above 0, got {value}", key=key)
    if (options.max_hours is None) != (options.num_images is None):
        raise UserError("--max-hours and --num-images go together", hint="--max-hours 8.67 --num-images 40000")
    if options.num_images is not None and options.num_images < 1:
        raise UserError(f"expected a whole number above 0, got {options.num_images}", key="--num-images")
    if options.min_labels < 0 or (options.max_labels is not None and options.max_labels < max(1, options.min_labels)):
        raise UserError(f"{options.min_labels}..{options.max_labels} is no range of labels", key="--max-labels")
    if (options.folds is None) != (options.train_csv is None):
        raise UserError("--folds and --train-csv go together", hint="both are for files of the older layout")


def _load(oof: Sequence[Path], options: Options) -> tuple[OofData, Weights | None]:
    """The members, and their weights where an ensemble file of the older list format names them."""
    lists = [path for path in oof if path.suffix in (".yml", ".yaml")]
    if lists and len(oof) > 1:
        raise UserError("an ensemble file stands for all of its members: name nothing beside it", file=lists[0])
    listed = read_list_format(lists[0]) if lists else []
    given = np.array([weight for _, weight in listed]) if listed else None
    files = [path for path, _ in listed] or list(oof)
    if options.folds is None or options.train_csv is None:
        if len({(path.parent, path.name.rpartition("_f")[0]) for path in files}) < len(listed):
            raise UserError("lists a model twice", file=lists[0])
        older = [path for path in files if is_older_name(path)]
        if older:
            hint = "--folds folds.npy --train-csv train.csv"
            raise UserError("is of the older layout, which needs its folds and labels", file=older[0], hint=hint)
        return load_members(files), given
    data = load_older_members(files, options.folds, options.train_csv)
    if given is not None and len(given) != len(data.members):
        raise UserError("lists a model twice", file=lists[0])
    return data, given


def _rule(data: OofData, metric: Metric, options: Options) -> Rule:
    rule = Rule(groups_of(data.names, options.thresholds), options.min_labels, options.max_labels)
    if not rule.is_joint and not metric.thresholded:
        key = "--thresholds" if options.thresholds != "joint" else "--min-labels and --max-labels"
        raise UserError(f"{metric.name} of task {data.task} has no thresholds", key=key, hint="leave it out")
    if max(options.min_labels, options.max_labels or 0) > len(data.classes):
        raise UserError(f"there are {len(data.classes)} classes", key="--max-labels")
    return rule

"""Which models, folds and views fit into the hours that inference may take, and what each hour is worth.

OOF predictions tell what a set of models scores with one fold of each: every image is predicted by one fold. More folds
of a model cost as much again and can only be hoped to help, so the models are chosen first, by score, and what time is
left goes to more folds, the heaviest model first. Views are chosen where a model was predicted twice, with other views:
such OOF files are alternatives, of which a blend takes one.

Whatever is chosen runs in the order of what it gains a second, so that a deadline costs as little as possible.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from foldsmith.ensemble.fit import Problem
from foldsmith.ensemble.members import OofMember
from foldsmith.ensemble.objective import Point, Weights, normalized, taking_part
from foldsmith.ensemble.optimizers import run
from foldsmith.ensemble.threads import in_threads
from foldsmith.errors import UserError, did_you_mean
from foldsmith.metrics import best_constant_labels


@dataclass(frozen=True)
class Choice:
    """Some of the members, blended as well as was found, with one fold of each."""

    members: tuple[int, ...]
    hours: float
    point: Point  # weights of all members, those of the others 0


def speeds(members: Sequence[OofMember], named: Mapping[str, float]) -> list[float | None]:
    """Images a second of every member, one fold with all its views: the one named, else its sidecars' mean."""
    for name in named:
        known = [member.name for member in members]
        if name not in known:
            raise UserError(f"no member is called {name!r}", key="--speed", hint=did_you_mean(name, known))
    found: list[float | None] = []
    for member in members:
        measured = [sidecar.speed.get("images_per_second") for sidecar in member.sidecars]
        usable = [float(speed) for speed in measured if isinstance(speed, int | float) and speed > 0]
        found.append(named.get(member.name, sum(usable) / len(usable) if usable else None))
    return found


def hours_of_a_fold(members: Sequence[OofMember], ips: Sequence[float | None], num_images: int) -> list[float]:
    """Hours that one fold of each member takes.

    Raises:
        UserError: a speed is not known.
    """
    for member, speed in zip(members, ips, strict=True):
        if speed is None:
            hint = f"--speed {member.name}=IMAGES_A_SECOND, one fold with all its views"
            raise UserError(f"the speed of {member.name!r} is not known", key="--max-hours", hint=hint)
    return [num_images / speed / 3600 for speed in ips if speed is not None]


def choices(problem: Problem, hours: Sequence[float], best: Point, seconds: float) -> list[Choice]:
    """Sets of members worth thinking of, found by leaving out and by adding one after the other.

    Left out is the member that costs the least score an hour, added the one that gains the most.

    Args:
        hours: of one fold of each member.
        best: the blend of all.
        seconds: for fitting each set.
    """
    everyone = tuple(range(len(hours)))
    found: dict[tuple[int, ...], Choice] = {}

    def consider(members: tuple[int, ...], guess: Weights) -> Choice:
        if members not in found:
            objective = problem.objective(members=members)
            start = problem.settled(objective, normalized(guess[list(members)]))
            fitted = run("line", objective, start, seconds)["line"] if len(members) > 1 else start
            weights = np.zeros(len(hours))
            weights[list(members)] = fitted.weights
            taken = tuple(index for index in members if weights[index] > 0)
            cost = sum(hours[index] for index in taken)
            found[members] = Choice(taken, cost, Point(weights, fitted.threshold, fitted.score))
        return found[members]

    def score(weights: Weights) -> float:
        return problem.settled(problem.objective(), normalized(weights)).score

    members, weights = everyone, best.weights
    while True:
        weights = consider(members, weights).point.weights
        if len(members) == 1:
            break
        full = score(weights)
        kept = {drop: np.where(np.arange(len(hours)) == drop, 0, weights) for drop in members}
        loss = {drop: (full - score(rest)) / hours[drop] if rest.any() else np.inf for drop, rest in kept.items()}
        least = min(members, key=lambda drop: loss[drop])
        members = tuple(index for index in members if index != least)
    axes = np.eye(len(hours))
    members = (max(everyone, key=lambda index: score(axes[index]) / hours[index]),)
    while True:
        weights = consider(members, axes[list(members)].sum(axis=0)).point.weights
        rest = [index for index in everyone if index not in members]
        if not rest:
            break
        share = 1 / (len(members) + 1)
        base = score(weights)
        gain = {add: (score((1 - share) * weights + share * axes[add]) - base) / hours[add] for add in rest}
        members = tuple(sorted((*members, max(rest, key=lambda add: gain[add]))))
    for index in everyone:
        consider((index,), axes[index])
    return [choice for choice in found.values() if not _has_alternatives(problem, choice.members)]


def _has_alternatives(problem: Problem, members: Sequence[int]) -> bool:
    """Whether two members are the same weights with other views."""
    seen = [tuple(sidecar.weights_sha256 for sidecar in problem.data.members[index].sidecars) for index in members]
    return len(set(seen)) < len([hashes for hashes in seen if hashes]) if all(seen) else False


def frontier(found: Sequence[Choice]) -> list[Choice]:
    """Those that no cheaper one equals, by rising hours."""
    best: list[Choice] = []
    for choice in sorted(found, key=lambda choice: (choice.hours, -choice.point.score)):
        if not best or choice.point.score > best[-1].point.score:
            best.append(choice)
    return best


def within(found: Sequence[Choice], max_hours: float) -> Choice:
    """The best that fits.

    Raises:
        UserError: none does.
    """
    fitting = [choice for choice in found if choice.hours <= max_hours]
    if not fitting:
        least = min(choice.hours for choice in found)
        raise UserError(f"one fold of the fastest model takes {least:.2f} hours", key="--max-hours", hint="allow more")
    return max(fitting, key=lambda choice: (choice.point.score, -choice.hours))


def folds_within(choice: Choice, hours: Sequence[float], num_folds: int, max_hours: float) -> dict[int, int]:
    """How many folds of each of its members are run: one, and more in turns while time is left, the heaviest first."""
    folds = dict.fromkeys(choice.members, 1)
    spent = choice.hours
    heaviest_first = sorted(choice.members, key=lambda index: -choice.point.weights[index])
    for _ in range(num_folds - 1):
        for index in heaviest_first:
            if spent + hours[index] <= max_hours and folds[index] < num_folds:
                folds[index] += 1
                spent += hours[index]
    return folds


def seconds_of(ips: Sequence[float | None], folds: Sequence[int]) -> list[float]:
    """What an image costs each member; one of unknown speed is taken for an average one."""
    known = [speed for speed in ips if speed is not None]
    average = sum(known) / len(known) if known else 1.0
    return [count / (average if speed is None else speed) for speed, count in zip(ips, folds, strict=True)]


def running_order(problem: Problem, best: Point, seconds: Sequence[float]) -> list[int]:
    """All members, in the order in which they run: next is always the one whose joining gains most score a second.

    What stands before the first is the submission of the most frequent labels. Members without a weight come last.

    Args:
        seconds: what an image costs each member.
    """
    objective, left = problem.objective(), taking_part(best.weights)
    order: list[int] = []
    score = prior_score(problem)
    while len(left) > 1:

        def joined(index: int) -> float:
            weights = np.where(np.isin(np.arange(len(seconds)), [*order, index]), best.weights, 0)
            return problem.settled(objective, normalized(weights)).score

        scores = dict(zip(left, in_threads(joined, left), strict=True))
        chosen = max(left, key=lambda index: (scores[index] - score) / seconds[index])
        left.remove(chosen)
        order.append(chosen)
        score = scores[chosen]
    order += left
    return order + [index for index in range(len(seconds)) if index not in order]


def prior_score(problem: Problem) -> float:
    """The score of the same prediction for every image, from the labels' frequencies; the larger the better."""
    targets, metric = problem.data.targets, problem.metric
    if metric.thresholded or problem.data.task == "multiclass":
        labels = np.zeros(targets.shape[1], dtype=np.float32)
        labels[prior_labels(problem)] = 1
    else:
        labels = targets.mean(axis=0, dtype=np.float32)
    score = metric.score(np.broadcast_to(labels, targets.shape), targets, 0.5)
    return score if metric.larger_is_better else -score


def prior_labels(problem: Problem) -> list[int]:
    """Classes to predict where nothing is known of an image: as many as score best, one where an image has one."""
    most_frequent = best_constant_labels(problem.data.targets)
    return most_frequent[:1] if problem.data.task == "multiclass" else most_frequent

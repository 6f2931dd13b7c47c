"""Ways to look for the best blend. Each starts at equal weights and leaves the best point it met in a `Hunt`.

A point is weights that sum to one and, for F-beta, a threshold; scipy's methods see both as one vector. `line` is the
exact line search of the sparse objective; where there is none it takes steps of halving size. `auto` runs the others
side by side and climbs from the best of them once more.
"""

import contextlib
import time
from collections.abc import Callable
from functools import partial
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import differential_evolution, minimize

from foldsmith.ensemble.hunt import SPAN, Hunt, OutOfTimeError
from foldsmith.ensemble.objective import DenseObjective, Objective, Point, Weights, normalized
from foldsmith.ensemble.smooth import smooth_loss
from foldsmith.ensemble.threads import in_threads

GAIN = 1e-9  # of the score that counts as one
STILL = 1e-5  # a sweep of lines that gains less is the last
NEGLIGIBLE = 0.005  # a weight
ROUGH = 250_000  # entries of the images on which `line` takes its first sweeps


def uniform(hunt: Hunt) -> None:
    """Equal weights, at which every hunt starts."""


def scipy_simplex(hunt: Hunt, method: str, evaluations: int) -> None:
    """Nelder-Mead or Powell over weights and threshold."""
    if _is_large(hunt):
        return _roughly(hunt, partial(scipy_simplex, method=method, evaluations=evaluations))
    x = hunt.vector()
    options: dict[str, object] = {"maxfev": evaluations, "xtol" if method == "Powell" else "xatol": 1e-3}
    if method == "Nelder-Mead":
        # The default simplex is 5 % wide: for a few images that is less than what moves the score.
        width = np.array([0.25] * hunt.objective.members + [0.03] * (len(x) - hunt.objective.members))
        options["initial_simplex"] = np.vstack([x, *(x + np.diag(np.where(x > 0.5, -width, width)))])
    minimize(hunt.loss, x, method=method, bounds=hunt.bounds(), options=options)


def slsqp(hunt: Hunt) -> None:
    """SLSQP on a smoothed objective, smoothed less and less."""
    for width in (0.05, 0.02):
        x = hunt.vector()
        found = minimize(
            partial(smooth_loss, hunt.objective, width),
            x,
            jac=True,
            method="SLSQP",
            bounds=hunt.bounds(),
            constraints={"type": "eq", "fun": lambda x: x[: hunt.objective.members].sum() - 1},
            options={"maxiter": 25},
            callback=lambda x: _check_time(hunt),
        )
        hunt.loss(found.x)
        weights = normalized(found.x[: hunt.objective.members])
        hunt.score(weights, _settled(hunt, weights, hunt.best.threshold))


def evolution(hunt: Hunt, evaluations: int) -> None:
    """Differential evolution, always with the same random numbers."""
    if _is_large(hunt):
        return _roughly(hunt, partial(evolution, evaluations=evaluations))
    size = 4 * len(hunt.vector())
    rounds = max(1, evaluations // size - 1)
    differential_evolution(
        hunt.loss, hunt.bounds(), x0=hunt.vector(), popsize=4, maxiter=rounds, polish=False, rng=0, init="sobol"
    )


def greedy(hunt: Hunt) -> None:
    """Caruana et al. (ICML 2004): add, again and again, the member that helps most; a member may be added twice."""
    if _is_large(hunt):
        return _roughly(hunt, greedy)
    count, threshold = hunt.objective.members, hunt.best.threshold
    added = np.zeros(count)
    best = -np.inf
    for _ in range(5 * count):
        scores = [hunt.score(added + axis, threshold) for axis in np.eye(count)]
        chosen = int(np.argmax(scores))
        if scores[chosen] <= best:
            return
        added[chosen] += 1
        threshold = _settled(hunt, added, threshold)
        best = hunt.score(added, threshold)


def line(hunt: Hunt, sweeps: int = 8) -> None:
    """Climb along lines in the space of weights and threshold until no line leads up.

    Args:
        sweeps: of all images at most, where there are so many that some of them show the way at first.
    """
    if not isinstance(hunt.objective, Objective):
        return _steps(hunt)
    from_afar = [1.0, 0.3, 0.3, *[0.1] * 8]
    if _is_large(hunt):
        _roughly(hunt, lambda rough: _sweeps(rough, from_afar))
        _sweeps(hunt, [0.1] * sweeps)
    else:
        _sweeps(hunt, from_afar)


def _is_large(hunt: Hunt) -> bool:
    """Whether there are so many entries that some of the images should show the way."""
    return isinstance(hunt.objective, Objective) and hunt.objective.values.shape[1] > 2 * ROUGH


def _roughly(hunt: Hunt, method: Callable[[Hunt], None]) -> None:
    """Use a method on some of the images; what it found gets the threshold that is best for all of them."""
    full = hunt.objective
    assert isinstance(full, Objective)
    chosen = np.arange(full.entries.shape[0]) % (full.values.shape[1] // ROUGH) == 0
    rough = Hunt(Objective(full.entries.of_images(chosen), full.beta, full.by_class), hunt.best, hunt.deadline)
    rough.best = rough.best._replace(score=-np.inf)
    with contextlib.suppress(OutOfTimeError):
        rough.score(*hunt.best[:2])
        method(rough)
    found = full.near(rough.best.weights, _of(rough.best.threshold), SPAN / 4)
    if found.score > hunt.best.score:
        hunt.best = Point(rough.best.weights, found.threshold, found.score)


def _sweeps(hunt: Hunt, reaches: list[float]) -> None:
    """Lines through the best point towards every member, and from one member to another."""
    from_afar = reaches[:1] == [1.0]
    axes, active = np.eye(hunt.objective.members), hunt.best.weights >= (0 if from_afar else NEGLIGIBLE)
    for sweep, reach in enumerate(reaches):
        before = hunt.best
        for axis in axes[active]:
            _climb(hunt, axis - hunt.best.weights, reach)
        hunt.score(hunt.best.weights, _settled(hunt, hunt.best.weights, hunt.best.threshold))
        _climb(hunt, hunt.best.weights - before.weights, 2.0, _of(hunt.best.threshold) - _of(before.threshold))
        if reach < 1:
            for up, down in combinations(axes[active], 2):  # one weight traded against another
                _climb(hunt, up - down, reach)
        still = hunt.best.score < before.score + STILL
        if sweep == 1 or (still and (hunt.best.weights[active] < NEGLIGIBLE).any()):
            active = _without_negligible(hunt)
        elif sweep and still:
            return


def _without_negligible(hunt: Hunt) -> NDArray[np.bool_]:
    """Take members out whose weight is not worth their time at inference; returns which are left."""
    kept = hunt.best.weights >= min(NEGLIGIBLE, hunt.best.weights.max() / 2)
    if not kept.all():
        weights = normalized(np.where(kept, hunt.best.weights, 0))
        threshold = _settled(hunt, weights, hunt.best.threshold)
        hunt.best = Point(weights, threshold, hunt.score(weights, threshold))
    return kept


def _climb(hunt: Hunt, direction: Weights, reach: float, slope: float = 0.0) -> None:
    """Go to the best point of the line through the hunt's best one, within `reach` and while no weight is negative."""
    assert isinstance(hunt.objective, Objective)
    weights, threshold = hunt.best.weights, _of(hunt.best.threshold)
    if not direction.any():
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = np.where(direction != 0, -weights / direction, np.inf)
    low = max(-reach, np.max(ends[direction > 0], initial=-reach))
    high = min(reach, np.min(ends[direction < 0], initial=reach))
    _check_time(hunt)
    floor = hunt.objective.floor
    start, end = weights + low * direction, weights + high * direction
    from_, to = max(floor, threshold + low * slope), max(floor, threshold + high * slope)
    where = hunt.objective.along(np.clip(start, 0, None), from_, np.clip(end, 0, None), to)
    hunt.score(start + where * (end - start), from_ + where * (to - from_))


def _steps(hunt: Hunt) -> None:
    """A little more or less of one member, by halving steps: for objectives without lines."""
    size = 0.4
    while size > 0.01:
        before = hunt.best.score
        for member in np.eye(hunt.objective.members):
            for step in (size, -size):
                hunt.score(hunt.best.weights + step * member, None)
        if hunt.best.score <= before + GAIN:
            size /= 2


def _settled(hunt: Hunt, weights: Weights, threshold: float | None) -> float | None:
    """The best threshold near one."""
    if not isinstance(hunt.objective, Objective):
        return None
    return hunt.objective.near(normalized(weights), _of(threshold), SPAN / 4).threshold


def _of(threshold: float | None) -> float:
    assert threshold is not None
    return threshold


def _check_time(hunt: Hunt) -> None:
    if time.monotonic() > hunt.deadline:
        raise OutOfTimeError


def run(method: str, objective: Objective | DenseObjective, start: Point, seconds: float) -> dict[str, Point]:
    """The best point that a method found, by name; for `auto` that of every method, its own last.

    Args:
        start: equal weights, at their best threshold.
    """
    deadline = time.monotonic() + seconds
    if method != "auto":
        return {method: _run_one(method, objective, start, deadline)}
    points = in_threads(lambda name: _run_one(name, objective, start, deadline), METHODS)
    found = dict(zip(METHODS, points, strict=True))
    best = max(found.values(), key=lambda point: point.score)
    return found | {"auto": best if best is found["line"] else _run_one("line", objective, best, deadline)}


def climb(objective: Objective | DenseObjective, start: Point, seconds: float) -> Point:
    """What `line` finds where many images are left out of its sweeps; the threshold is the best for all images."""
    hunt = Hunt(objective, start, time.monotonic() + seconds)
    with contextlib.suppress(OutOfTimeError):
        line(hunt, sweeps=0)
    return hunt.best


def _run_one(name: str, objective: Objective | DenseObjective, start: Point, deadline: float) -> Point:
    hunt = Hunt(objective, start, deadline)
    with contextlib.suppress(OutOfTimeError):
        METHODS[name](hunt)
    return hunt.best


METHODS: dict[str, Callable[[Hunt], None]] = {
    "uniform": uniform,
    "line": line,
    "slsqp": slsqp,
    "greedy": greedy,
    "powell": partial(scipy_simplex, method="Powell", evaluations=300),
    "nelder-mead": partial(scipy_simplex, method="Nelder-Mead", evaluations=300),
    "differential-evolution": partial(evolution, evaluations=300),
}

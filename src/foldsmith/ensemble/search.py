"""The blend search: weights of the members and one threshold for all, by scipy.optimize from several starts.

A candidate's score is exact: its best threshold is found from one sort (metrics.best_fbeta), never from a grid. The
result is never worse than equal weights or the best single model, for they are candidates too.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from tqdm import tqdm

from foldsmith.ensemble.file import FORMAT, Ensemble, Member, blend, write_ensemble
from foldsmith.ensemble.members import OofData, load_members
from foldsmith.ensemble.objective import Objective, Weights, blended, in_order, normalized
from foldsmith.errors import UserError
from foldsmith.metrics import Best, Probabilities, Targets, best_constant_labels, best_fbeta, fbeta

EVALUATIONS_PER_MEMBER = 40  # of one run of an optimizer


def search(target: str, oof: Sequence[Path]) -> Path:
    """Find the best blend and write `<target>.yml`; prints what it found.

    Args:
        target: name or path of the ensemble file, with or without ".yml".
        oof: one OOF file a model.
    """
    if target.endswith(".npy"):
        raise UserError(f"{target!r} would be the ensemble's name", hint="ensemble_search.py NAME OOF.npy ...")
    path = Path(target if target.endswith((".yml", ".yaml")) else f"{target}.yml")
    if path.exists() and f"format: {FORMAT}" not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError("exists and is not an ensemble file; it is not overwritten", file=path)
    data = load_members(oof)
    members = [member.probabilities for member in data.members]
    weights = find_weights(members, data.targets, "blend")
    ensemble = describe(data, weights)
    write_ensemble(path, ensemble)
    _print(ensemble, data, path)
    return path


def find_weights(members: Sequence[Probabilities], targets: Targets, description: str) -> Weights:
    """The best weights found, summing to one, some perhaps 0."""
    count = len(members)
    singles = np.eye(count)
    uniform = np.full(count, 1 / count)
    if count == 1:
        return uniform

    objective = Objective(members, targets)
    with tqdm(desc=f"search {description}", unit=" blends", disable=None, leave=False) as bar:

        def evaluate(weights: Weights) -> Best:
            bar.update()
            return objective(weights)

        candidates = [uniform, *singles]
        best_single = max(singles, key=lambda weights: evaluate(weights).score)
        for start in (uniform, (uniform + best_single) / 2, (3 * uniform + singles[0]) / 4):
            for method in ("Nelder-Mead", "Powell"):
                candidates.append(_optimize(evaluate, start, method))
        return max(candidates, key=lambda weights: evaluate(weights).score)


def _optimize(evaluate: Callable[[Weights], Best], start: Weights, method: str) -> Weights:
    """One run of scipy over unnormalised weights in [0, 1]."""
    tolerance = "xtol" if method == "Powell" else "xatol"
    options: dict[str, Any] = {"maxfev": EVALUATIONS_PER_MEMBER * len(start), tolerance: 1e-3}
    if method == "Nelder-Mead":
        # The default simplex is 5 % wide, less than what one image moves the score by.
        corners = np.vstack([start, *(start + 0.25 * (1 - 2 * (start > 0.5)) * axis for axis in np.eye(len(start)))])
        options["initial_simplex"] = corners
    found = minimize(
        lambda weights: -evaluate(normalized(weights)).score,
        start,
        method=method,
        bounds=[(0.0, 1.0)] * len(start),
        options=options,
    )
    return normalized(found.x)


def nested_score(data: OofData) -> float:
    """Mean score of every fold by the weights and threshold that were fitted on the other folds."""
    members = [member.probabilities for member in data.members]
    total = 0.0
    for fold in range(data.fold_of.max() + 1):
        inside, outside = data.fold_of == fold, data.fold_of != fold
        fitted_on = [member[outside] for member in members]
        weights = find_weights(fitted_on, data.targets[outside], f"without fold {fold}")
        threshold = best_fbeta(blended(fitted_on, weights), data.targets[outside]).threshold
        held_out = blended([member[inside] for member in members], weights)
        total += fbeta(held_out, data.targets[inside], threshold) * np.count_nonzero(inside)
    return total / len(data.fold_of)


def describe(data: OofData, weights: Weights) -> Ensemble:
    """The ensemble file's content for some weights."""
    weights = normalized(weights)
    order = in_order(weights)
    chosen = [data.members[index] for index in order]
    probabilities = [member.probabilities for member in chosen]
    shares = [float(weights[index]) for index in order]
    prefixes = [best_fbeta(blend(probabilities[:n], shares[:n]), data.targets) for n in range(1, len(order) + 1)]
    everyone = [member.probabilities for member in data.members]
    return Ensemble(
        task="multilabel",
        metric="f2",
        score=prefixes[-1].score,
        nested_score=nested_score(data),
        uniform_score=best_fbeta(blended(everyone, np.ones(len(everyone))), data.targets).score,
        best_single_score=max(best_fbeta(member, data.targets).score for member in everyone),
        threshold=prefixes[-1].threshold,
        classes_sha256=data.classes_sha256,
        prior=[data.classes[index] for index in best_constant_labels(data.targets)],
        members=[
            Member(
                name=member.name,
                weight=share,
                views=member.sidecars[0].views,
                oof=[file.name for file in member.files],
                weights=[file.with_suffix(".safetensors").name for file in member.files],
                sha256=[sidecar.weights_sha256 for sidecar in member.sidecars],
            )
            for member, share in zip(chosen, shares, strict=True)
        ],
        prefix_thresholds=[prefix.threshold for prefix in prefixes],
    )


def _print(ensemble: Ensemble, data: OofData, path: Path) -> None:
    width = max(len(member.name) for member in data.members)
    weights = {member.name: member.weight for member in ensemble.members}
    print(f"{'member':<{width}}  weight    F2")
    for member in data.members:
        single = best_fbeta(member.probabilities, data.targets).score
        print(f"{member.name:<{width}}  {weights.get(member.name, 0.0):.4f}  {single:.4f}")
    print(f"blend {ensemble.score:.4f} at threshold {ensemble.threshold:.4f} (nested {ensemble.nested_score:.4f})")
    print(f"uniform {ensemble.uniform_score:.4f}, best single {ensemble.best_single_score:.4f}")
    print(f"written: {path}")

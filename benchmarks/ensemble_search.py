#!/usr/bin/env python3
"""What the blend search costs and finds at the size of iMet 2019: 109,237 images, 1,103 classes, 7 models of 5 folds.

benchmarks/ensemble_search.py --data /tmp/imet_oof      makes the data there (3.2 GB, a minute or two), or uses what is

Prints the time of one evaluation in the dense form that was published and in ours, the largest difference of their
scores, what each optimiser finds on the same objective, and the whole command's time and memory.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import differential_evolution, minimize

from foldsmith.ensemble.fit import Problem, pose
from foldsmith.ensemble.objective import Objective, normalized
from foldsmith.ensemble.older import load_older_members
from foldsmith.ensemble.optimizers import METHODS, run
from foldsmith.metrics import best_fbeta, fbeta, find_metric

ROOT = Path(__file__).parent.parent
FOLDS = 5


def make_data(folder: Path, images: int, classes: int, members: int, seed: int) -> None:
    """Labels of Zipf-like frequencies, 3.2 an image; members of rising quality that share part of their error."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    frequency = 1 / np.arange(1, classes + 1) ** 0.9
    frequency = np.minimum(frequency * 3.2 / frequency.sum(), 0.25)
    targets = rng.random((images, classes), dtype=np.float32) < frequency.astype(np.float32)
    empty = np.flatnonzero(~targets.any(axis=1))
    targets[empty, rng.choice(classes, len(empty), p=frequency / frequency.sum())] = True
    fold_of = rng.integers(0, FOLDS, images).astype(np.uint8)
    prior = np.log(frequency / (1 - frequency)).astype(np.float32)
    shared = rng.standard_normal((images, classes), dtype=np.float32)
    for member in range(members):
        own = rng.standard_normal((images, classes), dtype=np.float32)
        logits = prior + np.float32(4.3 + 0.12 * member) * (targets - np.float32(0.12))
        logits += np.float32(1.25) * shared + np.float32(0.9) * own
        probabilities = 1 / (1 + np.exp(-logits))
        for fold in range(FOLDS):
            part = probabilities[fold_of == fold]
            best = best_fbeta(part, targets[fold_of == fold])
            name = f"level1_train_model{member}_f{fold}_e20_{best.score:.4f}.npy"
            np.save(folder / name, part - np.float32(best.threshold))
        print(f"made model{member}", flush=True)
    np.save(folder / "folds.npy", fold_of)
    rows = (f"{row:016x},{' '.join(map(str, np.flatnonzero(labels)))}\n" for row, labels in enumerate(targets))
    (folder / "train.csv").write_text("id,attribute_ids\n" + "".join(rows))


def published_score(problem: Problem, weights: np.ndarray) -> float:
    """One evaluation as published: float64 zeros a member, filled fold by fold, summed, compared, counted in torch."""
    targets = problem.data.targets
    total = np.zeros(targets.shape)
    for member, weight in zip(problem.data.members, weights, strict=True):
        filled = np.zeros(targets.shape)
        for fold in range(FOLDS):
            filled[problem.data.fold_of == fold] = member.map(fold) * weight
        total += filled
    predicted, truth = torch.from_numpy(total) > 0, torch.from_numpy(targets)
    hits = (predicted & truth).sum(dim=1).double()
    return float((5 * hits / (4 * truth.sum(dim=1) + predicted.sum(dim=1)).clamp(min=1e-9)).mean())


def compare_evaluations(problem: Problem, objective: Objective, blends: int, repeats: int) -> None:
    """Seconds of one evaluation in both forms, and how far their scores are apart."""
    uniform = np.full(objective.members, 1 / objective.members)
    dense, published = timed(lambda: published_score(problem, uniform), repeats)
    ours, score = timed(lambda: objective.score(uniform, 0.0), 50)
    times = dense / ours
    print(f"one evaluation: dense as published {dense:.2f} s, ours {ours * 1000:.1f} ms: {times:.0f} times cheaper")
    print(f"  equal weights at threshold 0: {published:.8f} as published (float64), {score:.8f} ours (float32)")
    differences = []
    for weights in np.random.default_rng(0).dirichlet(np.ones(objective.members), blends):
        matrix = problem.blend(weights)
        for threshold in (0.0, -0.01):
            dense_score = fbeta(matrix, problem.data.targets, threshold)
            differences.append(abs(dense_score - objective.score(weights, threshold)))
    print(f"largest difference from the dense float32 score, {blends} random blends, 2 thresholds: {max(differences)}")


def timed(function: Callable[[], float], repeats: int) -> tuple[float, float]:
    """The median of the seconds that some calls take, and what they return."""
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), result


def compare_methods(problem: Problem, objective: Objective, seconds: float) -> None:
    """Published ways at the published threshold 0, and every --method of the command, from equal weights."""
    count = objective.members
    evaluations = 0

    def loss(weights: np.ndarray) -> float:
        nonlocal evaluations
        evaluations += 1
        return -objective.score(normalized(weights), 0.0)

    uniform, bounds = np.full(count, 1 / count), [(0.0, 1.0)] * count
    ways: dict[str, Callable[[], object]] = {
        "Nelder-Mead, as published": lambda: minimize(loss, uniform, method="Nelder-Mead", bounds=bounds),
        "Powell, likewise": lambda: minimize(loss, uniform, method="Powell", bounds=bounds),
        "SLSQP, likewise": lambda: minimize(loss, uniform, method="SLSQP", bounds=bounds),
        "differential evolution, likewise": lambda: differential_evolution(
            loss, bounds, x0=uniform, popsize=5, maxiter=15, polish=False, rng=0
        ),
    }
    print(f"{'':34} score    seconds")
    for name, way in ways.items():
        evaluations, started = 0, time.perf_counter()
        found = way()
        score = objective.score(normalized(found.x), 0.0)  # type: ignore[attr-defined]
        print(f"{name:34} {score:.5f}  {time.perf_counter() - started:5.1f}   {evaluations} evaluations", flush=True)
    for name in [*METHODS, "auto"]:
        started = time.perf_counter()
        point = run(name, objective, problem.start, seconds)[name]
        print(f"{'--method ' + name:34} {point.score:.5f}  {time.perf_counter() - started:5.1f}", flush=True)


def run_command(folder: Path) -> None:
    """The whole command in a process of its own."""
    files = sorted(str(path) for path in folder.glob("level1_train_*_f0_*.npy"))
    words = ["--folds", str(folder / "folds.npy"), "--train-csv", str(folder / "train.csv")]
    started = time.perf_counter()
    command = [sys.executable, str(ROOT / "ensemble_search.py"), str(folder / "best"), *files, *words]
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    peak = usage.ru_maxrss / 1e6
    if status:
        raise SystemExit("the command failed")
    print(f"the whole command: {seconds:.1f} s, at most {peak:.2f} GB of memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the OOF files, made where it is empty")
    parser.add_argument("--images", type=int, default=109_237)
    parser.add_argument("--classes", type=int, default=1_103)
    parser.add_argument("--members", type=int, default=7)
    parser.add_argument("--seed", type=int, default=2019)
    parser.add_argument("--blends", type=int, default=20, help="random blends whose scores are compared")
    parser.add_argument("--repeats", type=int, default=3, help="of the published evaluation")
    parser.add_argument("--parts", nargs="+", default=["command", "evaluations", "methods"], help="default: all three")
    args = parser.parse_args()
    if not (args.data / "train.csv").is_file():
        # In a process of its own: a child's peak memory begins with its parent's.
        sizes = (args.data, args.images, args.classes, args.members, args.seed)
        process = multiprocessing.get_context("spawn").Process(target=make_data, args=sizes)
        process.start()
        process.join()
    if "command" in args.parts:
        run_command(args.data)
    if not {"evaluations", "methods"} & set(args.parts):
        return
    files = sorted(args.data.glob("level1_train_*_f0_*.npy"))
    data = load_older_members(files, args.data / "folds.npy", args.data / "train.csv")
    problem = pose(data, find_metric("f2", "multilabel"))
    objective = problem.objective()
    assert isinstance(objective, Objective) and problem.entries is not None
    kept, searched = problem.entries.values.shape[1], objective.values.shape[1]
    print(f"entries: {data.targets.size} in all, {kept} above the proved floor, {searched} searched")
    if "evaluations" in args.parts:
        compare_evaluations(problem, objective, args.blends, args.repeats)
    if "methods" in args.parts:
        compare_methods(problem, objective, seconds=60)


if __name__ == "__main__":
    main()

"""Which views pay for their time: measured on out-of-fold images, added one after the other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foldsmith.data.images import geometry_of
from foldsmith.errors import UserError
from foldsmith.inference.decoded import Canvas, DecodedImages, free_memory
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.inference.views import DIHEDRAL, expand_views, margin_of
from foldsmith.metrics import Metric, Probabilities, Targets, find_metric
from foldsmith.models.weights import load_model
from foldsmith.training.oof import OofWork

WORTH = 0.0005  # of the metric, what a view must add to be advised


@dataclass(frozen=True)
class Step:
    """A view that was added, and the score with it."""

    view: str
    score: float


def print_views(work: OofWork, device: torch.device) -> None:
    """Search, and print the table and the advice."""
    print(describe_views(search_views(work, device), find_metric(work.config.metric, work.config.data.task)))


def search_views(work: OofWork, device: torch.device) -> list[Step]:
    """Begin with the plain image and add the view that raises the OOF score the most, again and again.

    Candidates are test.tta's views and, where the input is square, the eight symmetries; else the four that keep its
    shape. Probabilities are averaged.
    """
    geometry = geometry_of(work.config)
    square = geometry.height == geometry.width
    shape_kept = ["identity", "hflip", "vflip", "rot180"]
    candidates = list(dict.fromkeys([*(DIHEDRAL if square else shape_kept), *expand_views(work.config.test.tta)]))
    size = len(candidates) * len(work.table) * len(work.table.classes.tokens) * 4
    if size > free_memory() / 2:
        raise UserError(
            f"the probabilities of {len(candidates)} views take {size / 1e9:.1f} GB, more than half of what is free",
            key="--tta search",
            hint="name the weights of one fold: --weights FILE",
        )
    canvas = Canvas(geometry, margin_of(candidates, geometry.height, geometry.width))
    parts: dict[str, list[Probabilities]] = {view: [] for view in candidates}
    targets = []
    for path, header in work.headers.items():
        rows = work.folds.valid_rows(header["fold"])
        model, pipeline = load_model(path, device), pipeline_of(work.config, device)
        with DecodedImages([work.paths[row] for row in rows], keep=[canvas], read=work.read) as images:
            for view in candidates:
                title = f"{work.config.name} fold {header['fold']} {view}"
                parts[view].append(predict(model, images, pipeline, [view], title, canvas=canvas))
        targets.append(work.table.targets(rows))
    metric = find_metric(work.config.metric, work.config.data.task)
    views = {view: np.concatenate(of_view) for view, of_view in parts.items()}
    return add_views(views, np.concatenate(targets), metric)


def add_views(views: dict[str, Probabilities], targets: Targets, metric: Metric) -> list[Step]:
    """All views in the order in which they help most, each with the score of the mean so far.

    Args:
        views: float32 (images, classes) by name; "identity" is the first.
    """
    sign = 1 if metric.larger_is_better else -1
    total = views["identity"].copy()
    steps = [Step("identity", metric.best(total, targets).score)]
    left = [view for view in views if view != "identity"]
    while left:
        count = np.float32(len(steps) + 1)
        scores = [metric.best((total + views[view]) / count, targets).score for view in left]
        best = int(np.argmax([sign * score for score in scores]))
        steps.append(Step(left[best], scores[best]))
        total += views[left.pop(best)]
    return steps


def advise(steps: Sequence[Step], metric: Metric) -> list[str]:
    """The first views, up to the last one that adds at least WORTH to the score of the advice before it."""
    sign = 1 if metric.larger_is_better else -1
    chosen = 1
    for count in range(2, len(steps) + 1):
        if sign * (steps[count - 1].score - steps[chosen - 1].score) >= WORTH:
            chosen = count
    return [step.view for step in steps[:chosen]]


def describe_views(steps: Sequence[Step], metric: Metric) -> str:
    """A table: each view that is added, the score with it, the gain, and the time as a multiple of one view's."""
    lines = [f"{'added view':<16} {metric.name:>8}     gain   time"]
    for number, step in enumerate(steps):
        gain = step.score - steps[max(0, number - 1)].score
        lines.append(f"{step.view:<16} {step.score:8.4f} {gain:+8.4f} {number + 1:5} x")
    lines.append(f"test.tta: [{', '.join(advise(steps, metric))}]    (a view must add {WORTH} to be advised)")
    return "\n".join(lines)

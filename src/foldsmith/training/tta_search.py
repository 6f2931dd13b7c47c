"""Which views pay for their time: measured on out-of-fold images, added one after the other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from foldsmith.data.images import geometry_of
from foldsmith.errors import UserError
from foldsmith.inference.decoded import Canvas, DecodedImages, free_memory
from foldsmith.inference.predict import MERGES, pipeline_of, predict
from foldsmith.inference.views import DIHEDRAL, expand_views, margin_of
from foldsmith.metrics import Metric, Probabilities, Targets, find_metric
from foldsmith.models.weights import load_model
from foldsmith.training.oof import OofWork

WORTH = 0.0005  # of the metric, what the time of one plain view must bring to be advised


@dataclass(frozen=True)
class Step:
    """A view that was added, the score with it, and the time of all so far, that of the plain view being 1."""

    view: str
    score: float
    time: float


def print_views(work: OofWork, device: torch.device) -> None:
    """Search, and print the table and the advice."""
    print(describe_views(search_views(work, device), find_metric(work.config.metric, work.config.data.task)))


def search_views(work: OofWork, device: torch.device) -> list[Step]:
    """Begin with the plain image and add the view that raises the OOF score the most, again and again.

    Candidates are test.tta's views and, where the input is square, the eight symmetries; else the four that keep its
    shape. Views are merged as test.merge says; the time of each is measured.
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
    seconds = dict.fromkeys(candidates, 0.0)
    targets = []
    for path, header in work.headers.items():
        rows = work.folds.valid_rows(header["fold"])
        model, pipeline = load_model(path, device), pipeline_of(work.config, device)
        with DecodedImages([work.paths[row] for row in rows], keep=[canvas], read=work.read) as images:
            for view in candidates:
                title = f"{work.config.name} fold {header['fold']} {view}"
                started, waited = time.monotonic(), images.waited
                parts[view].append(predict(model, images, pipeline, [view], title, canvas=canvas))
                seconds[view] += time.monotonic() - started - (images.waited - waited)
        targets.append(work.table.targets(rows))
    metric = find_metric(work.config.metric, work.config.data.task)
    views = {view: np.concatenate(of_view) for view, of_view in parts.items()}
    return add_views(
        views, np.concatenate(targets), metric, seconds, Merge(work.config.test.merge, work.config.data.task)
    )


@dataclass(frozen=True)
class Merge:
    """How the probabilities of several views become one (predict.MERGES)."""

    name: str
    task: str

    def __call__(self, views: Sequence[Probabilities]) -> Probabilities:
        if self.name == "mean":
            return np.mean(views, axis=0, dtype=np.float32)
        p = [torch.from_numpy(view).clamp(1e-7, 1 - 1e-7) for view in views]
        logits = [each.log() if self.task == "multiclass" else each.logit() for each in p]
        return MERGES[self.name](logits, self.task).numpy()


def add_views(
    views: dict[str, Probabilities],
    targets: Targets,
    metric: Metric,
    seconds: dict[str, float],
    merge: Callable[[Sequence[Probabilities]], Probabilities],
) -> list[Step]:
    """All views in the order in which they help most, each with the score of what is merged so far.

    Args:
        views: float32 (images, classes) by name; "identity" is the first.
        seconds: what each view took.
    """
    sign = 1 if metric.larger_is_better else -1
    chosen, spent = ["identity"], seconds["identity"]
    steps = [Step("identity", metric.best(views["identity"], targets).score, 1.0)]
    left = [view for view in views if view != "identity"]
    while left:
        merged = [merge([*(views[name] for name in chosen), views[view]]) for view in left]
        scores = [metric.best(each, targets).score for each in merged]
        best = int(np.argmax([sign * score for score in scores]))
        chosen.append(left.pop(best))
        spent += seconds[chosen[-1]]
        steps.append(Step(chosen[-1], scores[best], spent / seconds["identity"]))
    return steps


def advise(steps: Sequence[Step], metric: Metric) -> list[str]:
    """The first views, up to the last that, with those before it, gains WORTH for each time of a plain view."""
    sign = 1 if metric.larger_is_better else -1
    chosen = steps[0]
    for step in steps[1:]:
        if sign * (step.score - chosen.score) >= WORTH * (step.time - chosen.time):
            chosen = step
    return [step.view for step in steps[: steps.index(chosen) + 1]]


def describe_views(steps: Sequence[Step], metric: Metric) -> str:
    """A table: each view that is added, the score with it, the gain, and the time as a multiple of the plain view's."""
    lines = [f"{'added view':<16} {metric.name:>8}     gain    time"]
    for number, step in enumerate(steps):
        gain = step.score - steps[max(0, number - 1)].score
        lines.append(f"{step.view:<16} {step.score:8.4f} {gain:+8.4f} {step.time:5.2f} x")
    pays = f"views pay that gain {WORTH} for each time of the plain one"
    lines.append(f"test.tta: [{', '.join(advise(steps, metric))}]    ({pays})")
    return "\n".join(lines)

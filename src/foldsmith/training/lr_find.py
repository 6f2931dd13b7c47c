"""Learning rate range test (Smith 2017, arXiv:1506.01186): the loss while the rate rises from step to step."""

from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from foldsmith.config import Config
from foldsmith.data.cache import cached_images
from foldsmith.data.folds import Folds, folds_sha256, make_folds
from foldsmith.data.tables import read_table
from foldsmith.errors import UserError
from foldsmith.files import write_figure
from foldsmith.inference.predict import pipeline_of
from foldsmith.models.build import train_mode, with_image_stats
from foldsmith.training.checkpoints import Progress
from foldsmith.training.loop import backward, clip_gradients
from foldsmith.training.run import read_images
from foldsmith.training.setup import build_loader, build_network, build_plan, start_stage, use_cores
from foldsmith.training.stages import stages_of

SMOOTHING = 0.9  # share of the running mean that a step keeps
DIVERGED = 3.0  # times the lowest running mean at which the test ends


@dataclass(frozen=True)
class RateCurve:
    """Each step's rate (of optimizer.params.lr; other groups in proportion) and the running mean of the loss."""

    rates: list[float]
    losses: list[float]
    suggested: float


def find_rate(config: Config, device: torch.device, *, lowest: float, highest: float, steps: int) -> RateCurve:
    """Train the first stage's model on fold 0 with rates that rise by a constant factor; nothing is kept.

    Args:
        lowest, highest: of optimizer.params.lr.
        steps: at most so many; fewer where the loss runs away.
    """
    if not 0 < lowest < highest or steps < 10:
        raise UserError(f"{lowest} to {highest} in {steps} steps is no range", key="--min-lr, --max-lr, --steps")
    config = with_image_stats(config)
    table = read_table(config)
    images, train, _ = read_images(config, table)
    fold_of = make_folds(config, table)
    rows = train.rows(Folds(fold_of, folds_sha256(table.ids, fold_of)), 0)
    stage = stages_of(config)[0]
    trained = train.table.take(rows)
    torch.manual_seed(config.train.seed)
    training = start_stage(build_network(config, len(table.classes.tokens), device), stage, Progress(), device)
    workers = use_cores(stage.config.train, device, {})
    read = cached_images(config, images.groups, build=False)
    loader, order = build_loader(stage.config, trained, [images.train[row] for row in rows], device, read, workers)
    plan = build_plan(stage, table, pipeline_of(config, device), order.batches, [order.batches])
    train_mode(training.model)

    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    base = stage.config.optimizer.params["lr"]
    with tqdm(total=steps, desc=f"{config.name} lr-find", unit="step", disable=None, leave=False) as bar:
        for epoch in count():
            order.epoch = epoch
            for batch, item in enumerate(loader):
                if isinstance(item, UserError):
                    raise item
                rate = lowest * (highest / lowest) ** (len(rates) / (steps - 1))
                for group in training.optimizer.param_groups:
                    group["lr"] = rate * group["initial_lr"] / base
                loss = backward(training, plan, batch, item, trained.targets(item.rows.numpy()), 1)
                clip_gradients(training, plan)
                training.scaler.step(training.optimizer)
                training.scaler.update()
                training.optimizer.zero_grad(set_to_none=True)
                mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
                rates.append(rate)
                losses.append(mean / (1 - SMOOTHING ** len(rates)))  # unbiased, as Adam's means
                bar.update()
                if len(rates) == steps or not np.isfinite(loss) or losses[-1] > DIVERGED * min(losses):
                    return RateCurve(rates, losses, suggest(rates, losses))
    raise AssertionError("unreachable")


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate at which the loss falls fastest over the rate's logarithm, before its lowest point.

    The first tenth is left out: there the running mean is that of a few batches.

    Raises:
        UserError: when the loss never falls.
    """
    first = len(rates) // 10
    rates, losses = rates[first:], losses[first:]
    lowest = int(np.nanargmin(losses))
    if lowest < 2:
        raise UserError(
            f"the loss only rises from the first rate, {rates[0]:.1e}, on", key="--min-lr", hint="start lower"
        )
    slopes = np.gradient(np.array(losses[: lowest + 1]), np.log(rates[: lowest + 1]))
    return rates[int(np.argmin(slopes))]


def draw_rates(curve: RateCurve, path: Path, title: str) -> None:
    """The loss against the rate, with the suggested one, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.rates, curve.losses)
    axes.axvline(curve.suggested, color="tab:green", linestyle="--", label=f"falls fastest: {curve.suggested:.1e}")
    top = 1.1 * max(curve.losses[0], min(curve.losses) * 2)
    axes.set(xscale="log", xlabel="optimizer.params.lr", ylabel="training loss (running mean)", title=title)
    axes.set_ylim(min(curve.losses) * 0.95, top)
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(path, figure, 110)

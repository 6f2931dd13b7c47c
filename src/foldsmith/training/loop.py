"""One epoch of training."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from foldsmith.config.training import Warmup
from foldsmith.data.tables import Table
from foldsmith.errors import UserError
from foldsmith.failpoints import fail
from foldsmith.inference.predict import Pipeline, autocast, to_input
from foldsmith.models.build import set_trainable, train_mode
from foldsmith.models.sparsity import apply_masks
from foldsmith.training.checkpoints import Training
from foldsmith.training.mixing import Mixing
from foldsmith.training.schedules import set_rates
from foldsmith.training.watch import Watch

SHOWN_IDS = 48
MAX_BAD_STEPS = 3  # steps in a row whose loss may be NaN or infinite


@dataclass(frozen=True)
class EpochPlan:
    """What does not change while a stage trains."""

    criterion: nn.Module
    pipeline: Pipeline
    accum_batches: int
    warmup: Warmup | None
    trainable: str | list[str]
    steps_per_epoch: int
    total_steps: int
    clip_grad_norm: float | None
    mixing: Mixing | None
    seed: int


def train_epoch(training: Training, plan: EpochPlan, loader: DataLoader, table: Table, watch: Watch) -> float:
    """Train for one pass over the loader; returns the mean loss over its batches with a finite one.

    Gradients of `accum_batches` batches are averaged into one step; a smaller last group is averaged over its own size.
    """
    _thaw(training, plan)
    losses: list[float] = []
    bad_ids: list[str] = []  # of the images of the last batches, while their loss is not finite
    bad_steps = 0
    with watch.epoch(loader, training.progress.epoch) as batches:
        for batch, item in enumerate(batches):
            if isinstance(item, UserError):
                raise item
            fail("epoch.batch")
            images, rows = item
            group_start = batch - batch % plan.accum_batches
            group = min(plan.accum_batches, len(loader) - group_start)
            loss = backward(training, plan, batch, images, table.targets(rows), group)
            losses.append(loss)
            bad_steps = 0 if math.isfinite(loss) else bad_steps + 1
            bad_ids = [*bad_ids, *(table.ids[row] for row in rows)] if bad_steps else []
            if bad_steps >= MAX_BAD_STEPS:
                raise _not_finite(training, loss, bad_ids)
            if batch - group_start + 1 == group:
                _step(training, plan, finite=all(map(math.isfinite, losses[-group:])))
                if plan.warmup is not None and training.progress.step == plan.warmup.steps:
                    _thaw(training, plan)
            watch.show_loss(loss)
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise _not_finite(training, losses[-1], bad_ids)
    return float(np.mean(finite))


def _thaw(training: Training, plan: EpochPlan) -> None:
    """Put the model into training mode with what trains at this step: the head alone while a head-only warmup lasts."""
    warmup = plan.warmup
    warming = warmup is not None and warmup.head_only and training.progress.step < warmup.steps
    set_trainable(training.model, "head" if warming else plan.trainable)
    train_mode(training.model)


def backward(training: Training, plan: EpochPlan, batch: int, images: Tensor, targets: np.ndarray, group: int) -> float:
    """Add a batch's gradients; returns its loss.

    Args:
        batch: its number in the epoch.
        images: uint8 (N, H, W, 3).
        targets: bool (N, classes).
        group: batches whose gradients are averaged.
    """
    pipeline = plan.pipeline
    x = to_input(images, pipeline.mean, pipeline.std, pipeline.device)
    y = torch.from_numpy(targets).to(pipeline.device, non_blocking=True).float()
    if plan.mixing is not None:
        x, y = plan.mixing(x, y, np.random.default_rng([plan.seed, training.progress.epoch, batch]))
    total = 0.0
    for images_now, labels in zip(x.chunk(training.pieces), y.chunk(training.pieces), strict=True):
        fail("train.forward")
        with autocast(pipeline.device, pipeline.amp):
            try:
                logits = training.model(images_now)
            except ValueError as error:  # batch norm over a single value
                raise UserError(f"the network can't train on this batch: {error}", key="train.batch_size") from None
        share = len(labels) / len(y)
        loss = plan.criterion(logits.float(), labels)
        training.scaler.scale(loss * share / group).backward()
        total += float(loss.item()) * share
    return math.nan if fail("train.loss") == "nan" else total


def _step(training: Training, plan: EpochPlan, finite: bool) -> None:
    progress = training.progress
    if finite:
        set_rates(
            training.optimizer,
            training.schedule,
            progress.step,
            plan.total_steps,
            plan.steps_per_epoch,
            plan.warmup,
        )
        clip_gradients(training, plan)
        training.scaler.step(training.optimizer)
        training.scaler.update()
        apply_masks(training.model, training.masks)
        if training.ema is not None:
            training.ema.update(training.model, progress.step + 1)
    training.optimizer.zero_grad(set_to_none=True)
    progress.step += 1


def clip_gradients(training: Training, plan: EpochPlan) -> None:
    """Scale gradients down to the plan's norm, where it has one."""
    if plan.clip_grad_norm is not None:
        training.scaler.unscale_(training.optimizer)
        torch.nn.utils.clip_grad_norm_(training.model.parameters(), plan.clip_grad_norm)


def _not_finite(training: Training, loss: float, ids: Sequence[str]) -> UserError:
    rates = sorted({group["lr"] for group in training.optimizer.param_groups})
    scale = f", loss scale {training.scaler.get_scale():g}" if training.scaler.is_enabled() else ""
    shown = ", ".join(ids[:SHOWN_IDS]) + (f" ... ({len(ids)} in all)" if len(ids) > SHOWN_IDS else "")
    return UserError(
        f"the loss was not finite again and again (now {loss}) at step {training.progress.step}, "
        f"learning rates {', '.join(f'{rate:.3g}' for rate in rates)}{scale}, images {shown}",
        hint="a smaller optimizer.params.lr, a warmup, or train.amp: off; the last good weights are kept",
    )

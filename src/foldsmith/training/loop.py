"""One epoch of training."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from foldsmith.config.training import Warmup
from foldsmith.data.dataset import Batch
from foldsmith.data.tables import Table
from foldsmith.errors import UserError
from foldsmith.failpoints import fail
from foldsmith.inference.predict import Pipeline, autocast, to_input
from foldsmith.losses import divisor
from foldsmith.models.build import set_trainable, train_mode
from foldsmith.models.sparsity import apply_masks
from foldsmith.training import distributed, parallel
from foldsmith.training.checkpoints import Training
from foldsmith.training.device_transforms import move_images
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


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training was."""

    loss: float  # mean over the batches with a finite one
    images: int
    seconds: float
    waiting: float  # seconds of these in which there was no batch yet


def train_epoch(
    training: Training,
    plan: EpochPlan,
    loader: DataLoader,
    table: Table,
    watch: Watch,
    after_batch: Callable[[], None] | None = None,
) -> Epoch:
    """Train for one pass over the loader.

    Gradients of `accum_batches` batches are averaged into one step; a smaller last group is averaged over its own size.
    """
    _thaw(training, plan)
    losses: list[float] = []
    bad_ids: list[str] = []  # of the images of the last batches, while their loss is not finite
    bad_steps = images = 0
    statistics = _Statistics(training.model)
    timed, started = _Timed(loader), time.perf_counter()
    with watch.epoch(timed, len(loader), training.progress.epoch) as batches:
        for batch, item in enumerate(batches):
            fail("epoch.batch")
            rows = item.rows.numpy()
            images += len(rows)
            group_start = batch - batch % plan.accum_batches
            group = min(plan.accum_batches, len(loader) - group_start)
            loss = backward(training, plan, batch, item, table.targets(rows), group)
            losses.append(loss)
            bad_steps = 0 if math.isfinite(loss) else bad_steps + 1
            statistics.judge(math.isfinite(loss))
            bad_ids = [*bad_ids, *(table.ids[row] for row in rows)] if bad_steps else []
            if bad_steps >= MAX_BAD_STEPS:
                raise _not_finite(training, loss, bad_ids)
            if batch - group_start + 1 == group:
                _step(training, plan, finite=all(map(math.isfinite, losses[-group:])))
                if plan.warmup is not None and training.progress.step == plan.warmup.steps:
                    _thaw(training, plan)
            watch.show_loss(loss)
            if after_batch is not None:
                after_batch()
    finite = [loss for loss in losses if math.isfinite(loss)]
    if not finite:
        raise _not_finite(training, losses[-1], bad_ids)
    return Epoch(float(np.mean(finite)), images, time.perf_counter() - started, timed.waiting)


class _Statistics:
    """Batch norm's running statistics: those that a batch without a finite loss left are taken back."""

    def __init__(self, model: nn.Module) -> None:
        norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._NormBase))
        self.now = [buffer for norm in norms for buffer in norm.buffers(recurse=False)]
        self.good = [buffer.clone() for buffer in self.now]

    def judge(self, is_finite: bool) -> None:
        """After a batch: keep its statistics, or go back to those before it."""
        source, target = (self.now, self.good) if is_finite else (self.good, self.now)
        if self.now:
            torch._foreach_copy_(target, source)


class _Timed:
    """The batches of a loader, and how long they were waited for."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader
        self.waiting = 0.0  # seconds

    def __iter__(self) -> Iterator[Batch]:
        started = time.perf_counter()
        for item in self.loader:
            self.waiting += time.perf_counter() - started
            if isinstance(item, UserError):
                raise item
            yield item
            started = time.perf_counter()


def _thaw(training: Training, plan: EpochPlan) -> None:
    """Put the model into training mode with what trains at this step: the head alone while a head-only warmup lasts."""
    warmup = plan.warmup
    warming = warmup is not None and warmup.head_only and training.progress.step < warmup.steps
    set_trainable(training.model, "head" if warming else plan.trainable)
    train_mode(training.model)
    training.parallel = parallel.data_parallel(training.model, training.parallel)


def backward(training: Training, plan: EpochPlan, number: int, batch: Batch, targets: np.ndarray, group: int) -> float:
    """Add a batch's gradients; returns its loss: that of the batch of all processes.

    Args:
        number: the batch's, in the epoch.
        targets: bool (N, classes).
        group: batches whose gradients are averaged.
    """
    pipeline = plan.pipeline
    images = move_images(batch.images, batch.moves, pipeline.device)
    as_input = partial(to_input, mean=pipeline.mean, std=pipeline.std, device=pipeline.device)
    y = torch.from_numpy(targets).to(pipeline.device, non_blocking=True).float()
    if plan.mixing is None:
        x = as_input(images)
    else:
        generator = np.random.default_rng([plan.seed, training.progress.epoch, number])
        x, y = plan.mixing(images, y, generator, as_input)
    if word := fail("train.images"):
        x = x * float(word)
    network, seen = training.parallel or training.model, 0.0
    whole = distributed.total(divisor(plan.criterion, y))
    # Of all processes the same number, which synchronised batch norm waits for.
    pieces = min(training.pieces, distributed.smallest(len(x))) if training.pieces > 1 else 1
    parts = list(zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True))
    for piece, (images_now, labels) in enumerate(parts, start=1):
        fail("train.forward")
        last = piece == len(parts) and number % plan.accum_batches + 1 == group
        with parallel.no_sync(training.parallel, last):
            with autocast(pipeline.device, pipeline.amp):
                try:
                    logits = network(images_now)
                except ValueError as error:  # batch norm over a single value
                    raise UserError(f"the network can't train on this batch: {error}", key="train.batch_size") from None
            share = divisor(plan.criterion, labels) / whole if whole else 1.0
            loss = plan.criterion(logits.float(), labels) * share
            if word := fail("train.loss"):
                loss = loss * float(word)
            # DistributedDataParallel averages over the processes what has to be a sum.
            training.scaler.scale(loss * distributed.size() / group).backward()
        seen += float(loss.item())
    return distributed.total(seen)


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

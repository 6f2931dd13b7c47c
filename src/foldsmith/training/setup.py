"""From a config to the objects that train: model, loss, optimizer, schedule, and the plan of an epoch."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from foldsmith.config import Config
from foldsmith.config.training import Optimizer, Train
from foldsmith.data.augment import Augment
from foldsmith.data.dataset import AugmentedImages, EpochOrder, auto_workers, train_loader
from foldsmith.data.images import Image, bad_image_hint, geometry_of
from foldsmith.data.sampling import build_sampler, class_weights
from foldsmith.data.tables import Table
from foldsmith.errors import UserError
from foldsmith.inference.predict import Pipeline, amp_of, is_out_of_memory
from foldsmith.inference.views import expand_views, make_view, margin_of
from foldsmith.losses import build_loss
from foldsmith.models.build import build_model, set_trainable, slow_batch_norm
from foldsmith.models.sparsity import apply_masks, smallest_masks
from foldsmith.models.weights import load_pretrained
from foldsmith.training import distributed, parallel
from foldsmith.training.checkpoints import Progress, Training
from foldsmith.training.loop import EpochPlan
from foldsmith.training.mixing import Mixing
from foldsmith.training.optimizers import build_optimizer
from foldsmith.training.schedules import SCHEDULES
from foldsmith.training.stages import StagePlan

THREADS = torch.get_num_threads()  # that this process began with: an earlier fold may have set others


def build_network(config: Config, num_classes: int, device: torch.device) -> nn.Module:
    """The model of a fold that has not begun, with its pretrained weights."""
    height, width = config.model.input_size
    model = build_model(
        config.model.arch,
        num_classes=num_classes,
        input_size=(height, width),
        dropout=config.model.dropout,
        pooling=config.model.pooling,
        head_layers=config.model.head_layers,
        download=config.model.pretrained is True,
    )
    if isinstance(config.model.pretrained, str):
        load_pretrained(Path(config.model.pretrained), model)
    model.to(device)
    if config.train.sync_batch_norm:
        model = parallel.synchronised_batch_norm(model, device)
    _try_forward(model, config, device)
    slow_batch_norm(model, config.train.accum_batches)
    if config.train.compile:
        model.compile()  # in place: the names of its weights stay as they are
    return model


def start_stage(model: nn.Module, stage: StagePlan, progress: Progress, device: torch.device) -> Training:
    """What trains a stage that begins: optimizer, schedule, averages and masks for the weights that the model has."""
    config, train = stage.config, stage.config.train
    set_trainable(model, train.trainable)
    masks = smallest_masks(model, stage.sparsity) if stage.sparsity else {}
    if masks and all(bool(mask.all()) for mask in masks.values()):
        raise UserError(f"{stage.sparsity} of no weight is a whole number of zeros", key="train.sparsity", hint="0.5")
    apply_masks(model, masks)
    optimizer = build_optimizer(model, config.optimizer.name, config.optimizer.params, **_rates(config.optimizer))
    return Training(
        model=model,
        optimizer=optimizer,
        schedule=SCHEDULES[config.scheduler.name](**config.scheduler.params),
        scaler=torch.amp.GradScaler(device.type, enabled=amp_of(config, device) == "fp16"),
        ema=ModelEmaV3(model, decay=train.ema.decay, use_warmup=train.ema.warmup) if train.ema else None,
        swa=AveragedModel(model) if train.swa else None,
        masks=masks,
        progress=progress,
    )


def try_stages(model: nn.Module, stages: Sequence[StagePlan], table: Table, device: torch.device) -> None:
    """Begin every stage once, on a model that is thrown away: what is wrong with one shows before the first epoch."""
    for stage in stages:
        try:
            start_stage(model, stage, Progress(), device)
            build_criterion(stage.config, table)
            build_sampler(stage.config.train.sampler, table)
        except UserError as error:
            error.key = stage.key(error.key) if error.key else None
            raise


def _rates(optimizer: Optimizer) -> dict[str, Any]:
    return {"head_lr": optimizer.head_lr, "group_lrs": optimizer.group_lrs}


def use_cores(train: Train, device: torch.device, frozen: Mapping[str, Any], cores: int | None = None) -> int:
    """Divide the machine's cores: set torch's threads, and return the number of data loading processes.

    Args:
        frozen: `threads` and `workers` of a run that goes on. Sums over threads are split by their number: the same
            number gives the same bits.
        cores: that were given to this work; None: those of this process, of which OMP_NUM_THREADS may leave some.
    """
    workers = frozen.get("workers", auto_workers(device.type, cores)) if train.workers == "auto" else train.workers
    free = max(1, (cores or len(os.sched_getaffinity(0))) - (workers if train.workers == "auto" else 0))
    torch.set_num_threads(frozen.get("threads", min(THREADS, free) if cores is None else free))
    cv2.setNumThreads(0)  # waking OpenCV's threads takes longer than an image does
    return workers


def build_loader(
    config: Config,
    table: Table,
    paths: Sequence[Path],
    device: torch.device,
    read: Callable[[Path], Image],
    workers: int,
) -> tuple[DataLoader, EpochOrder]:
    """Training batches, and what says for each epoch which images they hold.

    Args:
        table: the rows to train on; `paths` are their images, which `read` reads.
    """
    train = config.train
    augment = Augment(config.augmentations, geometry_of(config))
    images = AugmentedImages(paths, table.ids, augment, train.seed, read, bad_image_hint(config))
    max_batches = train.max_steps_per_epoch * train.accum_batches if train.max_steps_per_epoch else None
    batch, sampler = parallel.batch_of_all(train), build_sampler(train.sampler, table)
    check_batch(train, sampler.length if sampler else len(images))
    order = EpochOrder(len(images), batch, train.seed, max_batches, sampler, distributed.part_of)
    pin = device.type == "cuda"
    return train_loader(images, order, workers=workers, pin=pin, timeout=train.worker_timeout), order


def check_batch(train: Train, draws: int) -> None:
    """Refuse batches of which some process would have no image, where an epoch has so many."""
    batch = min(parallel.batch_of_all(train), draws)
    if batch < distributed.size():
        raise UserError(
            f"{distributed.size()} processes can't share a batch of {batch} images",
            key="train.batch_size",
            hint="a larger one, train.batch_size_is: per_process, or fewer processes",
        )


def build_criterion(config: Config, table: Table) -> nn.Module:
    """The loss, with class weights from the labels of the whole table, so that they are the same in every fold."""
    formula = config.loss.class_weights
    if formula is None:
        return build_loss(config.loss.name, config.loss.params)
    weights = torch.from_numpy(class_weights(table, formula))
    return build_loss(config.loss.name, config.loss.params, weights)


def _try_forward(model: torch.nn.Module, config: Config, device: torch.device) -> None:
    """Some networks take only sizes that they can divide: say so before the first epoch, of each view's size."""
    height, width = config.model.input_size
    views = expand_views(config.test.tta)
    margin = margin_of(views, height, width)
    canvas = torch.zeros(1, 3, height + margin, width + margin, device=device)
    tried = set()
    for view in dict.fromkeys(["identity", *views]):
        images = make_view(view, canvas, height, width)
        if images.shape in tried:
            continue
        tried.add(images.shape)
        try:
            with torch.inference_mode():
                model.eval()(images)
        except (RuntimeError, AssertionError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            size, of_view = " x ".join(map(str, images.shape[2:])), f" of the view {view!r}"
            raise UserError(
                f"the network does not take {size} images{'' if view == 'identity' else of_view}: {error}",
                key="model.input_size" if view == "identity" else "test.tta",
            ) from None


def build_plan(stage: StagePlan, table: Table, pipeline: Pipeline, whole: int, batches: Sequence[int]) -> EpochPlan:
    """What an epoch of a stage is.

    Args:
        whole: batches of a whole epoch, in which schedules count.
        batches: of each epoch of the stage; the last may be a part.
    """
    train = stage.config.train
    steps = [-(-count // train.accum_batches) for count in batches]
    return EpochPlan(
        criterion=build_criterion(stage.config, table).to(pipeline.device),
        pipeline=pipeline,
        accum_batches=train.accum_batches,
        warmup=train.warmup,
        trainable=train.trainable,
        steps_per_epoch=-(-whole // train.accum_batches),
        total_steps=sum(steps),
        clip_grad_norm=train.clip_grad_norm,
        mixing=_mixing(train),
        seed=train.seed,
    )


def check_warmup(plan: EpochPlan) -> None:
    """Refuse a head-only warmup that does not end within the stage."""
    warmup, steps = plan.warmup, plan.total_steps
    if warmup is not None and warmup.head_only and warmup.steps >= steps:
        raise UserError(
            f"{warmup.steps} steps of the head alone, and the stage has {steps}: nothing else would train",
            key="train.warmup.steps",
            hint="fewer steps, more epochs, or train.trainable: head",
        )


def _mixing(train: Train) -> Mixing | None:
    mixup, cutmix = (mix.alpha if mix else None for mix in (train.mixup, train.cutmix))
    return Mixing(mixup, cutmix, train.mix_prob) if mixup or cutmix else None

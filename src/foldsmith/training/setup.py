"""From a config to the objects that train: model, loss, optimizer, schedule, and the plan of an epoch."""

from pathlib import Path

import torch
from timm.utils import ModelEmaV3

from foldsmith.config import Config
from foldsmith.config.schema import Train
from foldsmith.errors import UserError
from foldsmith.inference.predict import Pipeline
from foldsmith.losses import build_loss
from foldsmith.models.build import build_model, set_trainable
from foldsmith.models.weights import load_pretrained
from foldsmith.training.checkpoints import Progress, Training
from foldsmith.training.loop import EpochPlan
from foldsmith.training.mixing import Mixing
from foldsmith.training.optimizers import build_optimizer
from foldsmith.training.schedules import SCHEDULES


def build_training(config: Config, num_classes: int, device: torch.device, amp: str | None) -> Training:
    """Model, optimizer, schedule and scaler of a fold that has not begun."""
    height, width = config.model.input_size
    model = build_model(
        config.model.arch,
        num_classes=num_classes,
        input_size=(height, width),
        dropout=config.model.dropout,
        pooling=config.model.pooling,
        download=config.model.pretrained is True,
    )
    if isinstance(config.model.pretrained, str):
        load_pretrained(Path(config.model.pretrained), model)
    set_trainable(model, config.train.trainable)
    model.to(device)
    _try_forward(model, height, width, device)
    optimizer = build_optimizer(model, config.optimizer.name, config.optimizer.params, config.optimizer.head_lr)
    schedule = SCHEDULES[config.scheduler.name](**config.scheduler.params)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
    ema = config.train.ema
    average = ModelEmaV3(model, decay=ema.decay, use_warmup=ema.warmup) if ema else None
    return Training(model, optimizer, schedule, scaler, average, Progress())


def _try_forward(model: torch.nn.Module, height: int, width: int, device: torch.device) -> None:
    """Some networks take only sizes that they can divide: say so before the first epoch."""
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, height, width, device=device))
    except (RuntimeError, AssertionError, ValueError) as error:
        if "out of memory" in str(error):
            raise
        raise UserError(
            f"the network does not take {height} x {width} images: {error}", key="model.input_size"
        ) from None


def build_plan(config: Config, pipeline: Pipeline, batches: int) -> EpochPlan:
    """What an epoch of `batches` batches is."""
    train = config.train
    steps = -(-batches // train.accum_batches)
    return EpochPlan(
        criterion=build_loss(config.loss.name, config.loss.params).to(pipeline.device),
        pipeline=pipeline,
        accum_batches=train.accum_batches,
        warmup_steps=train.warmup.steps if train.warmup else 0,
        steps_per_epoch=steps,
        total_steps=train.num_epochs * steps,
        clip_grad_norm=train.clip_grad_norm,
        mixing=_mixing(train),
        seed=train.seed,
    )


def _mixing(train: Train) -> Mixing | None:
    mixup, cutmix = (mix.alpha if mix else None for mix in (train.mixup, train.cutmix))
    return Mixing(mixup, cutmix, train.mix_prob) if mixup or cutmix else None

"""Training an experiment: read this from top to bottom and you know what happens.

train_experiment   table, images, folder, split, then fold by fold
train_fold         data, model, optimizer, resume, epochs, the final weights
_finish_epoch      validate, keep the best, write what the next epoch needs
"""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from foldsmith.config import Config
from foldsmith.data.augment import Augment
from foldsmith.data.dataset import AugmentedImages, EpochOrder, auto_workers, train_loader
from foldsmith.data.folds import Folds, load_folds, make_folds
from foldsmith.data.images import find_images, geometry_of
from foldsmith.data.tables import Table, read_table
from foldsmith.errors import UserError
from foldsmith.files import code_sha256, sha256_json, sha256_lines
from foldsmith.inference.predict import pipeline_of, predict
from foldsmith.metrics import best_fbeta, log_loss
from foldsmith.models.build import with_image_stats
from foldsmith.models.weights import read_header, save_weights
from foldsmith.training.checkpoints import Training, load_checkpoint, restore, save_checkpoint
from foldsmith.training.folder import RunFolder, open_run
from foldsmith.training.loop import EpochPlan, train_epoch
from foldsmith.training.records import append_timing, draw_curves, write_metrics
from foldsmith.training.setup import build_plan, build_training


@dataclass(frozen=True)
class FoldJob:
    """One fold of one experiment and all that it reads."""

    config: Config  # resolved
    table: Table
    folds: Folds
    paths: list[Path]  # image of every row of the table
    images_sha256: str
    run: RunFolder
    fold: int
    device: torch.device

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a half-finished fold to go on, and for a finished one to be kept."""
        return {
            "data_sha256": self.table.sha256,
            "images_sha256": self.images_sha256,
            "folds_sha256": self.folds.sha256,
        }

    def say(self, text: str) -> None:
        """A line for the terminal and for train.log."""
        tqdm.write(f"{self.config.name} fold {self.fold}: {text}")
        self.run.fold(self.fold).mkdir(parents=True, exist_ok=True)
        with open(self.run.fold(self.fold) / "train.log", "a", encoding="utf-8") as log:
            log.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")


def train_experiment(
    config: Config, *, output: Path, device: torch.device, only_fold: int | None = None, fresh: bool = False
) -> RunFolder:
    """Train every fold of an experiment (or one), skipping what is finished and resuming what is not.

    Args:
        config: checked by load_config.
        output: the folder that holds runs.
        fresh: start over where something is there already.
    """
    if only_fold is not None and not 0 <= only_fold < config.data.num_folds:
        raise UserError(f"{only_fold} is not in 0..{config.data.num_folds - 1} (data.num_folds)", key="--fold")
    config = with_image_stats(config)
    table = read_table(config)
    config = config.model_copy(update={"data": config.data.model_copy(update={"label_separator": table.separator})})
    paths = find_images(config.data_path("train_dir"), table.ids, config.data.image_extension)

    # Names and sizes: reading all images would take minutes.
    images_sha256 = sha256_lines(f"{path.name} {path.stat().st_size}" for path in paths)

    run = RunFolder(output, config.name)
    made = None
    if fresh or not run.config.is_file():
        # Whatever is wrong with the split or the network shows before the run's folder is touched.
        made = make_folds(config, table)
        build_training(config, len(table.classes.tokens), device, None)
    open_run(run, config, fresh=fresh, only_fold=only_fold)
    folds = load_folds(config, table, run.folds, made)
    for fold in range(config.data.num_folds) if only_fold is None else [only_fold]:
        train_fold(FoldJob(config, table, folds, paths, images_sha256, run, fold, device))
    return run


def train_fold(job: FoldJob) -> None:
    """Train one fold to its final weights file."""
    config, train, device = job.config, job.config.train, job.device
    if _is_finished(job):
        job.say(f"finished already: {job.run.weights(job.fold)}")
        return

    # Data: the rows outside the fold, in an order and with augmentations that follow from (seed, epoch) alone.
    rows = job.folds.train_rows(job.fold)
    train_table = job.table.take(rows)
    augment = Augment(config.augmentations, geometry_of(config))
    images = AugmentedImages([job.paths[row] for row in rows], train_table.ids, augment, train.seed)
    max_batches = train.max_steps_per_epoch * train.accum_batches if train.max_steps_per_epoch else None
    order = EpochOrder(len(images), train.batch_size, train.seed, max_batches)
    workers = auto_workers(device.type) if train.workers == "auto" else train.workers
    loader = train_loader(images, order, workers=workers, pin=device.type == "cuda")

    # Model, loss, optimizer, schedule.
    torch.manual_seed(train.seed)
    pipeline = pipeline_of(config, device)
    training = build_training(config, len(job.table.classes.tokens), device, pipeline.amp)
    plan = build_plan(config, pipeline, len(order))

    # Resume after the last finished epoch.
    if (job.run.fold(job.fold) / "last.ckpt").is_file():
        _resume(job, training)

    # Epochs.
    while training.progress.epoch < train.num_epochs and not training.progress.finished:
        epoch = training.progress.epoch
        order.epoch = epoch
        torch.manual_seed(sha_seed(train.seed, epoch))  # dropout
        started = time.monotonic()
        description = f"{config.name} fold {job.fold} epoch {epoch + 1}/{train.num_epochs}"
        loss = train_epoch(training, plan, loader, train_table, description)
        _finish_epoch(job, training, plan, loss, len(order) * train.batch_size, started)

    # The best epoch's weights become the fold's.
    best = job.run.fold(job.fold) / "best.safetensors"
    if not best.is_file():
        raise UserError(
            "training is finished, but its weights were removed",
            file=best,
            hint=f"--fold {job.fold} --fresh trains it again",
        )
    best.replace(job.run.weights(job.fold))
    draw_curves(training.progress.metrics, job.run.fold(job.fold) / "curves.png", f"{config.name} fold {job.fold}")
    job.say(
        f"best epoch {training.progress.best_epoch}, F2 {training.progress.best_score:.4f}: {job.run.weights(job.fold)}"
    )


def _is_finished(job: FoldJob) -> bool:
    path = job.run.weights(job.fold)
    if not path.is_file():
        return False
    _check_identity(job, read_header(path), path)
    return True


def _check_identity(job: FoldJob, found: dict[str, Any], path: Path) -> None:
    """Refuse artefacts of another label table or split."""
    for key, what in (
        ("data_sha256", "the label table"),
        ("images_sha256", "the images' names or sizes"),
        ("folds_sha256", "folds.csv"),
    ):
        if found.get(key) != job.identity[key]:
            raise UserError(
                f"belongs to other data: {what} changed "
                f"({str(found.get(key))[:12]} there, {job.identity[key][:12]} now)",
                file=path,
                hint="--fresh starts over; --output keeps both",
            )


def _resume(job: FoldJob, training: Training) -> None:
    path = job.run.fold(job.fold) / "last.ckpt"
    content = load_checkpoint(path, job.device)
    _check_identity(job, content["identity"], path)
    # Sums over threads are split by their number: the same number gives the same bits.
    torch.set_num_threads(content["identity"]["threads"])
    restore(training, content)
    job.say(f"goes on after epoch {training.progress.epoch}")


def _finish_epoch(job: FoldJob, training: Training, plan: EpochPlan, loss: float, images: int, started: float) -> None:
    """Validate, keep the best weights, decide on stopping, write last.ckpt and the csv files."""
    progress, config = training.progress, job.config
    trained = time.monotonic()
    rows = job.folds.valid_rows(job.fold)
    targets = job.table.targets(rows)
    description = f"{config.name} fold {job.fold} validation"
    probabilities = predict(
        training.scored_model, [job.paths[row] for row in rows], plan.pipeline, ["identity"], description
    )
    best = best_fbeta(probabilities, targets)

    progress.epoch += 1
    rate = max(group["lr"] for group in training.optimizer.param_groups)
    progress.metrics.append(
        {
            "epoch": progress.epoch,
            "lr": rate,
            "train_loss": loss,
            "valid_loss": log_loss(probabilities, targets),
            "f2": best.score,
            "threshold": best.threshold,
        }
    )
    if best.score > progress.best_score:
        progress.best_score, progress.best_epoch = best.score, progress.epoch
        save_weights(
            job.run.fold(job.fold) / "best.safetensors", training.scored_model.state_dict(), _header(job, training)
        )
    stopping = config.train.early_stopping
    progress.finished = stopping is not None and progress.epoch - progress.best_epoch >= stopping.patience
    training.schedule.end_epoch(best.score)

    folder = job.run.fold(job.fold)
    write_metrics(folder / "metrics.csv", progress.metrics)
    save_checkpoint(folder / "last.ckpt", training, job.identity | {"threads": torch.get_num_threads()})
    seconds = (trained - started, time.monotonic() - trained)
    append_timing(folder / "timings.csv", progress.epoch, seconds, images / seconds[0])
    job.say(
        f"epoch {progress.epoch}/{config.train.num_epochs}  loss {loss:.4f}  F2 {best.score:.4f} "
        f"(threshold {best.threshold:.3f})  {images / seconds[0]:.0f} images/s, {sum(seconds):.0f} s"
    )


def _header(job: FoldJob, training: Training) -> dict[str, Any]:
    row = training.progress.metrics[-1]
    config = job.config.model_dump(mode="json")
    return {
        **job.identity,
        "name": job.config.name,
        "fold": job.fold,
        "config": config,
        "config_sha256": sha256_json(config),
        "code_sha256": code_sha256(),
        "classes": job.table.classes.tokens,
        "epoch": row["epoch"],
        "metric": job.config.metric,
        "score": row["f2"],
        "threshold": row["threshold"],
    }


def sha_seed(*numbers: int) -> int:
    """A torch seed that mixes numbers: neighbouring seeds and epochs give unrelated streams."""
    return int(sha256_json(numbers)[:15], 16)

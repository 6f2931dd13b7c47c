"""The end of an epoch, and of a stage with weight averaging: validate, keep the best weights, write what is known."""

import math
import time
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader

from foldsmith.data.images import bad_image_hint
from foldsmith.errors import UserError
from foldsmith.failpoints import fail
from foldsmith.inference.decoded import DecodedImages
from foldsmith.inference.predict import predict, to_input
from foldsmith.metrics import METRICS, Probabilities, find_metric
from foldsmith.models.build import is_frozen, train_mode
from foldsmith.models.weights import save_weights
from foldsmith.training import distributed, parallel
from foldsmith.training.checkpoints import Training, save_checkpoint
from foldsmith.training.device_transforms import move_images
from foldsmith.training.job import FoldJob
from foldsmith.training.loop import Epoch, EpochPlan
from foldsmith.training.records import append_timing, write_metrics
from foldsmith.training.schedules import Schedule
from foldsmith.training.stages import stages_of
from foldsmith.training.watch import Watch


def finish_epoch(job: FoldJob, training: Training, plan: EpochPlan, epoch: Epoch, watch: Watch) -> None:
    """Validate, keep the best weights, decide on stopping, write last.ckpt and the csv files."""
    progress = training.progress
    trained = time.monotonic()
    progress.epoch, progress.stage_epoch = progress.epoch + 1, progress.stage_epoch + 1
    row: dict[str, Any] = {
        "epoch": progress.epoch,
        "stage": progress.stage + 1,
        "lr": max(group["lr"] for group in training.optimizer.param_groups),
        "train_loss": epoch.loss,
    }
    fail("epoch.trained")
    row |= scores(job, training.scored_model, plan, "validation")
    fail("epoch.scored")
    progress.metrics.append(row)
    comparable = _comparable(job, row)
    if math.isfinite(comparable) and comparable > progress.best_score:
        progress.best_score, progress.best_epoch = comparable, progress.epoch
        _save_best(job, training, training.scored_model, row)
    if training.swa is not None and _is_averaged(job, progress.stage_epoch):
        training.swa.update_parameters(training.model)
    if training.schedule.end_epoch(comparable):
        _go_back_to_best(job, training)
    progress.finished = _stops_early(job, training, plan)

    fail("epoch.judged")
    if distributed.is_main():
        watch.log(row, _write_epoch(job, training, epoch, trained))
    distributed.barrier()


def _write_epoch(job: FoldJob, training: Training, epoch: Epoch, trained: float) -> dict[str, Any]:
    """metrics.csv, last.ckpt, timings.csv and a line for the log. Returns what timings.csv has of the epoch."""
    progress, config, folder = training.progress, job.config, job.run.fold(job.fold)
    row = progress.metrics[-1]
    write_metrics(folder / "metrics.csv", progress.metrics)
    made_by = {"threads": torch.get_num_threads(), "workers": job.workers, "processes": distributed.size()}
    save_checkpoint(
        folder / "last.ckpt", training, job.identity | made_by | {"batch_size": parallel.batch_of_all(config.train)}
    )
    valid_seconds = time.monotonic() - trained
    timing = {
        "epoch": progress.epoch,
        "train_seconds": round(epoch.seconds, 2),
        "valid_seconds": round(valid_seconds, 2),
        "train_images_per_second": round(epoch.images * distributed.size() / epoch.seconds, 1),
        "waiting_share": round(epoch.waiting / epoch.seconds, 3),
        "cuda_peak_gb": _cuda_peak(job.device),
    }
    append_timing(folder / "timings.csv", timing)
    total = sum(stage.epochs for stage in stages_of(config))
    at = "" if row["threshold"] is None else f" (threshold {row['threshold']:.3f})"
    job.say(
        f"epoch {progress.epoch}/{total}  loss {epoch.loss:.4f}  {config.metric} {row[config.metric]:.4f}{at}  "
        f"{timing['train_images_per_second']:.0f} images/s, {timing['waiting_share']:.0%} waiting for data, "
        + (f"{timing['cuda_peak_gb']} GB, " if job.device.type == "cuda" else "")
        + f"{epoch.seconds + valid_seconds:.0f} s"
    )
    return timing


def _cuda_peak(device: torch.device) -> float | None:
    """GB that torch had reserved at most since the last call."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_reserved(device) / 1e9
    torch.cuda.reset_peak_memory_stats(device)
    return round(peak, 2)


def scores(job: FoldJob, model: nn.Module, plan: EpochPlan, what: str) -> dict[str, float | None]:
    """Validation loss, the metric that decides with its best threshold, and the other metrics of the task.

    Raises:
        UserError: when the model's output is not finite.
    """
    rows = job.folds.valid_rows(job.fold)
    part = rows[distributed.part_of(len(rows))]
    probabilities = np.empty((0, len(job.table.classes.tokens)), dtype=np.float32)
    if len(part):
        hint = bad_image_hint(job.config)
        images = DecodedImages([job.images.table[row] for row in part], bad_hint=hint, read=job.read)
        title = f"{job.config.name} fold {job.fold} {what}"
        probabilities = predict(model, images, plan.pipeline, ["identity"], title, bar=False)
    probabilities = distributed.gather_rows(probabilities)
    return distributed.on_main(lambda: _scores(job, probabilities, job.table.targets(rows)))


def _scores(job: FoldJob, probabilities: Probabilities, targets: NDArray[np.bool_]) -> dict[str, float | None]:
    task = job.config.data.task
    best = find_metric(job.config.metric, task).best(probabilities, targets)
    found: dict[str, float | None] = {
        "valid_loss": find_metric("log_loss", task).best(probabilities, targets).score,
        job.config.metric: best.score,
        "threshold": best.threshold,
    }
    for name, metric in METRICS[task].items():
        if name not in found and name != "log_loss":  # that is valid_loss
            found[name] = metric.best(probabilities, targets).score
    return found


def finish_averaging(job: FoldJob, training: Training, plan: EpochPlan, loader: DataLoader) -> None:
    """Give the averaged weights batch norm statistics of their own, and keep them where they score better.

    Args:
        loader: one pass over the training images; an epoch's number that no other has.
    """
    assert training.swa is not None
    averaged = int(training.swa.n_averaged)
    if averaged == 0:
        job.say("no epoch came so far that its weights could be averaged (train.swa.start)")
        return
    pipeline = plan.pipeline

    def inputs() -> Any:
        for item in loader:
            if isinstance(item, UserError):
                raise item
            images = move_images(item.images, item.moves, pipeline.device)
            yield to_input(images, pipeline.mean, pipeline.std, pipeline.device)

    model = training.swa.module
    frozen = [(module, deepcopy(module.state_dict())) for module in model.modules() if is_frozen(module)]
    update_bn(inputs(), model)
    for module, state in frozen:  # layers that do not train keep their statistics
        module.load_state_dict(state)
    train_mode(model)
    parallel.average_statistics(model)
    row = scores(job, model, plan, "averaged weights")
    kept = math.isfinite(comparable := _comparable(job, row)) and comparable > training.progress.best_score
    if kept:
        _save_best(job, training, model, row)
    metric = job.config.metric
    job.say(f"weights of {averaged} epochs averaged: {metric} {row[metric]:.4f}, {'kept' if kept else 'not better'}")


def _comparable(job: FoldJob, row: dict[str, Any]) -> float:
    """The score that decides, so that higher is better."""
    score = float(row[job.config.metric])
    return score if find_metric(job.config.metric, job.config.data.task).larger_is_better else -score


def _save_best(job: FoldJob, training: Training, model: nn.Module, row: dict[str, Any]) -> None:
    if distributed.is_main():
        header = job.header(training.progress, row[job.config.metric], row["threshold"]) | {"pieces": training.pieces}
        save_weights(job.run.best(job.fold), model.state_dict(), header)
    distributed.barrier()


def _is_averaged(job: FoldJob, epoch: int) -> bool:
    """Whether the weights after this epoch of the last stage, counted from 1, belong to the average."""
    swa = job.config.train.swa
    return swa is not None and epoch >= swa.start and (epoch - swa.start) % swa.period == 0


def _go_back_to_best(job: FoldJob, training: Training) -> None:
    if distributed.is_main():  # another machine may still see the file of an earlier epoch
        training.model.load_state_dict(load_file(job.run.best(job.fold), device=str(job.device)))
    parallel.same_weights(training.model)
    if training.ema is not None:
        training.ema.module.load_state_dict(training.model.state_dict())
    job.say(f"the rate falls: back to the weights of epoch {training.progress.best_epoch}")


def _stops_early(job: FoldJob, training: Training, plan: EpochPlan) -> bool:
    stopping, progress = job.config.train.early_stopping, training.progress
    if stopping is None:
        return False
    since_best = progress.epoch - (progress.best_epoch or progress.epoch - progress.stage_epoch)
    if stopping.patience is not None and since_best >= stopping.patience:
        return True
    rates = [_next_rate(training.schedule, group, progress.step, plan) for group in training.optimizer.param_groups]
    return stopping.min_lr is not None and max(rates) <= stopping.min_lr


def _next_rate(schedule: Schedule, group: dict[str, Any], step: int, plan: EpochPlan) -> float:
    return schedule.rate(group["initial_lr"], step, plan.total_steps, plan.steps_per_epoch)

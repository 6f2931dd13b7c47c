"""Training an experiment: read this from top to bottom and you know what happens.

train_experiment   open_experiment (tables, images, folder, split), then fold by fold
train_fold         model, resume, stage after stage, the final weights
_train_stage       data, loss, optimizer, epochs; scoring.finish_epoch validates and keeps the best
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foldsmith.config import Config
from foldsmith.data.cache import cached_images
from foldsmith.data.folds import load_folds, make_folds
from foldsmith.data.images import find_images
from foldsmith.data.pseudo import TrainTable, read_train_table, train_images
from foldsmith.data.tables import Table, read_table
from foldsmith.errors import UserError
from foldsmith.failpoints import fail
from foldsmith.files import sha256_json, sha256_lines
from foldsmith.inference.predict import pipeline_of
from foldsmith.models.build import slow_batch_norm, with_image_stats
from foldsmith.models.weights import read_header
from foldsmith.training import distributed, parallel
from foldsmith.training.checkpoints import Progress, Training, load_checkpoint, restore
from foldsmith.training.folder import RunFolder, open_run, started_over
from foldsmith.training.job import FoldJob, Images
from foldsmith.training.lock import remove_stale_files
from foldsmith.training.loggers import check_loggers
from foldsmith.training.loop import train_epoch
from foldsmith.training.profiling import profiled
from foldsmith.training.records import draw_curves
from foldsmith.training.recovery import held, with_recovery
from foldsmith.training.scoring import finish_averaging, finish_epoch
from foldsmith.training.setup import (
    build_loader,
    build_network,
    build_plan,
    check_batch,
    check_warmup,
    start_stage,
    try_stages,
    use_cores,
)
from foldsmith.training.stages import StagePlan, stages_of
from foldsmith.training.watch import Watch


def train_experiment(
    config: Config,
    *,
    output: Path,
    device: torch.device,
    only_fold: int | None = None,
    fresh: bool = False,
    profile: bool = False,
) -> RunFolder:
    """Train every fold of an experiment (or one), skipping what is finished and resuming what is not."""
    where: dict[str, Any] = {"output": output, "device": device, "only_fold": only_fold}
    with open_experiment(config, **where, fresh=fresh, profile=profile) as jobs:
        for job in jobs:
            train_fold(job)
    return RunFolder(output, config.name)


@contextmanager
def open_experiment(
    config: Config,
    *,
    output: Path,
    device: torch.device,
    only_fold: int | None = None,
    fresh: bool = False,
    profile: bool = False,
    cache: bool = True,
    retried: bool = False,
    cores: int | None = None,
) -> Iterator[list[FoldJob]]:
    """Make or check the run's folder, and hold it as long as the block lasts; gives the folds to train.

    Args:
        config: checked by load_config.
        output: the folder that holds runs.
        fresh: start over where something is there already.
        profile: write a trace of some steps of each fold's first epoch.
        cache: decode the images into a cache where there is none; False: other processes train the folds, and do it.
        retried: this may be done again after a machine was lost.
        cores: that the folds may use; None: those of this process, with the threads that it began with.
    """
    if only_fold is not None and not 0 <= only_fold < config.data.num_folds:
        raise UserError(f"{only_fold} is not in 0..{config.data.num_folds - 1} (data.num_folds)", key="--fold")
    check_loggers(config)
    config = with_image_stats(config)
    table = read_table(config)
    config = config.model_copy(update={"data": config.data.model_copy(update={"label_separator": table.separator})})
    images, train, hashes = read_images(config, table)
    print(f"{config.name}: {table.words}")

    run = RunFolder(output, config.name)
    main, made = distributed.is_main(), None
    fresh = fresh and _starts_over(run, only_fold)
    if main and (fresh or not run.config.is_file()):
        # Whatever is wrong with the split, the network or a stage shows before the run's folder is touched.
        made = make_folds(config, table)
        try_stages(build_network(config, len(table.classes.tokens), device), stages_of(config), table, device)
    for stage in stages_of(config) if distributed.size() > 1 else ():
        settings = stage.config.train
        check_batch(settings, train.fewest_draws(settings.sampler, made, config.data.num_folds))
    after_loss = retried or distributed.restarted() or distributed.several_hosts()
    with held(run, only_fold, after_loss=after_loss) if main else nullcontext():
        chosen = list(range(config.data.num_folds)) if only_fold is None else [only_fold]
        with distributed.main_first():
            if main:
                open_run(run, config, fresh=fresh, only_fold=only_fold, starters=distributed.starters())
                if stale := remove_stale_files(run, chosen):
                    print(f"{config.name}: {stale} half-written files of a killed run removed")
            folds = load_folds(config, table, run.folds, made)
        found = [sha256_json(config.model_dump(mode="json")), table.sha256, folds.sha256]
        words = ", ".join(f"{name} {sha[:12]}" for name, sha in zip(("config", "labels", "split"), found, strict=True))
        distributed.check_same(words, run.path, hint="the same command and data on all machines")
        # Where there is something to train: finished folds read no images.
        build = cache and not all(run.weights(fold).is_file() for fold in chosen)
        read = cached_images(config, images.groups, build=build)
        distributed.barrier()  # another machine may still be decoding
        common = (config, table, train, images, folds, hashes, run)
        yield [FoldJob(*common, fold, device, read, profile, cores=cores) for fold in chosen]


def read_images(config: Config, table: Table) -> tuple[Images, TrainTable, dict[str, str]]:
    """The images that are split and validated, those that are trained on, and the hashes of both."""
    skip = config.data.on_bad_image == "skip"
    paths = find_images(config.data_path("train_dir"), table.ids, config.data.image_extension, missing_ok=skip)
    train = read_train_table(config, table)
    images = Images(paths, train_images(config, train, table, paths))
    hashes = {"data_sha256": table.sha256, "images_sha256": distributed.on_main(lambda: images.sha256)}
    if train.table is not table:
        hashes["data_sha256"] = sha256_lines([table.sha256, train.table.sha256])
    return images, train, hashes


def _starts_over(run: RunFolder, only_fold: int | None) -> bool:
    """Whether --fresh deletes what is there: not what an earlier start of the same job has made."""
    if distributed.several_hosts():
        hint = f"remove {run.path} first"  # each machine counts restarts for itself: one might delete what was finished
        raise UserError("torchrun on several machines can't tell a restart from a start", key="--fresh", hint=hint)
    return not started_over(run, only_fold, distributed.starters(again=True))


def fill_cache(config: Config) -> None:
    """Decode the images of an experiment into its cache on disk, as its training would."""
    insisting = config.model_copy(update={"data": config.data.model_copy(update={"cache": "disk"})})
    cached_images(insisting, read_images(config, read_table(config))[0].groups)


def train_fold(job: FoldJob) -> None:
    """Train one fold to its final weights file."""
    if distributed.on_main(lambda: _is_finished(job)):
        return
    progress = with_recovery(job, lambda pieces: _train_stages(job, pieces))
    if distributed.is_main():
        _finish_fold(job, progress)
    distributed.barrier()


def _is_finished(job: FoldJob) -> bool:
    weights = job.run.weights(job.fold)
    if not weights.is_file():
        return False
    job.check_identity(read_header(weights), weights)
    job.say(f"finished already: {weights}")
    return True


def _finish_fold(job: FoldJob, progress: Progress) -> None:
    """The best epoch's weights, of the last stage, become the fold's."""
    config, weights = job.config, job.run.weights(job.fold)
    best = job.run.best(job.fold)
    if not best.is_file():
        raise UserError(
            "training is finished, but its weights were removed",
            file=best,
            hint=f"--fold {job.fold} --fresh trains it again",
        )
    header = read_header(best)
    fail("fold.trained")
    best.replace(weights)
    fail("fold.finished")
    draw_curves(
        progress.metrics, config.metric, job.run.fold(job.fold) / "curves.png", f"{config.name} fold {job.fold}"
    )
    job.say(f"best epoch {header['epoch']}, {config.metric} {header['score']:.4f}: {weights}")


def _train_stages(job: FoldJob, pieces: int) -> Progress:
    """All stages, from the beginning or from last.ckpt; how far the fold has come then.

    Args:
        pieces: parts in which a batch goes through the network.
    """
    config = job.config
    torch.manual_seed(config.train.seed)
    model = build_network(config, len(job.table.classes.tokens), job.device)
    parallel.same_weights(model)
    slow_batch_norm(model, pieces)
    if distributed.size() > 1:
        job.say(f"{distributed.words()}, which share each batch of {parallel.batch_of_all(config.train)} images")
    progress = Progress()
    checkpoint = _read_checkpoint(job)
    if checkpoint is not None:  # of the last finished epoch
        progress = Progress(**checkpoint["progress"])
    come = f"stage {progress.stage + 1}, epoch {progress.epoch}, step {progress.step}"
    hint = "--output on a folder that all machines share; where they do, the same command once more"
    distributed.check_same(come, job.run.fold(job.fold) / "last.ckpt", hint)

    frozen = checkpoint["identity"] if checkpoint else {}
    if frozen.get("processes", 1) != distributed.size():
        frozen = {}  # other processes divide the cores in another way
    job = replace(job, workers=use_cores(config.train, job.device, frozen, job.cores))
    job.say(f"{job.workers} data loading processes, {torch.get_num_threads()} torch threads on {job.device}")

    stages = stages_of(config)
    with closing(Watch(config, job.fold, job.run.fold(job.fold))) as watch:
        for stage in stages[progress.stage :]:
            if len(stages) > 1:
                job.say(f"stage {stage.number + 1} of {len(stages)}: {stage.words}")
            training = start_stage(model, stage, progress, job.device)
            training.pieces = pieces
            if checkpoint is not None:
                restore(training, checkpoint)
                checkpoint = None
                job.say(f"goes on after epoch {progress.epoch}")
            _train_stage(job, stage, training, watch)
            ended = training.progress
            progress, job = ended.next_stage(), replace(job, profile=False)
    return ended


def _read_checkpoint(job: FoldJob) -> dict[str, Any] | None:
    path = job.run.fold(job.fold) / "last.ckpt"
    if not path.is_file():
        return None
    content = load_checkpoint(path, job.device)
    job.check_identity(content["identity"], path)
    before = {"processes": 1, "batch_size": job.config.train.batch_size} | content["identity"]
    batch = parallel.batch_of_all(job.config.train)
    if before["batch_size"] != batch:
        raise UserError(
            f"batches had {before['batch_size']} images; those of {distributed.size()} processes have {batch}",
            file=path,
            key="train.batch_size_is",
            hint=f"as many processes as before ({before['processes']}), or --fresh",
        )
    return content


def _train_stage(job: FoldJob, stage: StagePlan, training: Training, watch: Watch) -> None:
    """The epochs of a stage that are still to do; at the end of the last one, its averaged weights."""
    train, device, progress = stage.config.train, job.device, training.progress

    # Data: the rows outside the fold, in an order and with augmentations that follow from (seed, epoch) alone.
    rows = job.train.rows(job.folds, job.fold)
    table = job.train.table.take(rows)
    paths = [job.images.train[row] for row in rows]
    loader, order = build_loader(stage.config, table, paths, device, job.read, job.workers)
    whole = order.batches
    batches = [max(1, round(whole * stage.share_of_epoch(epoch))) for epoch in range(stage.epochs)]
    plan = build_plan(stage, job.table, pipeline_of(stage.config, device), whole, batches)
    check_warmup(plan)

    profiling: AbstractContextManager[Callable[[], None] | None] = nullcontext()
    if job.profile and distributed.is_main():
        profiling = profiled(job.run.fold(job.fold) / "profile.json", device, job.say)
    while progress.stage_epoch < stage.epochs and not progress.finished:
        order.epoch, order.batches = progress.epoch, batches[progress.stage_epoch]
        torch.manual_seed(_dropout_seed(train.seed, progress.epoch))
        fail("epoch.begin")
        with profiling as after_batch:
            epoch = train_epoch(training, plan, loader, table, watch, after_batch)
        profiling = nullcontext()
        parallel.average_statistics(training.model, training.scored_model)
        finish_epoch(job, training, plan, epoch, watch)

    if training.swa is not None:
        order.epoch, order.batches = progress.epoch, whole
        torch.manual_seed(_dropout_seed(train.seed, progress.epoch))  # where it stands in front of a batch norm
        finish_averaging(job, training, plan, loader)


def _dropout_seed(seed: int, epoch: int) -> int:
    """Of an epoch, and of a process: each drops out other parts of its images."""
    return sha_seed(seed, epoch, distributed.rank()) if distributed.rank() else sha_seed(seed, epoch)


def sha_seed(*numbers: int) -> int:
    """A torch seed that mixes numbers: neighbouring seeds and epochs give unrelated streams."""
    return int(sha256_json(numbers)[:15], 16)

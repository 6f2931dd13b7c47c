"""What train.py does once its configs are checked: folds here, side by side, under torchrun, or on Ray."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch

from foldsmith.config import Config
from foldsmith.errors import UserError
from foldsmith.launch.arguments import check_launcher
from foldsmith.launch.local import Command, check_per_device, run_queue, slots_of
from foldsmith.launch.progress import training_job
from foldsmith.training.distributed import process_group, under_torchrun
from foldsmith.training.job import FoldJob
from foldsmith.training.run import open_experiment, train_experiment


def train_command(configs: Sequence[Config], args: Namespace, device: torch.device, script: Path) -> None:
    """Train the experiments.

    Args:
        configs: those of args.config.
        args: of train.py.
        script: train.py.
    """
    check_launcher(args)
    check_per_device(args.parallel_folds)
    names = [config.name for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"two files make the run {twice[0]!r}", key="--config", hint="an experiment is named by its file")
    if under_torchrun():
        if args.launcher == "ray" or args.parallel_folds > 1:
            raise UserError("torchrun's processes train one fold together", key="--launcher, --parallel-folds")
        with process_group(device) as own:
            _one_by_one(configs, args, own)
        return
    folds = 1 if args.fold is not None else max(config.data.num_folds for config in configs)
    slots = slots_of(device, args.parallel_folds)
    if args.launcher == "ray":
        _on_ray(configs, args)
    elif min(len(slots), folds * len(configs)) == 1:
        _one_by_one(configs, args, device)
    else:
        jobs = _open(configs, args)
        run_queue([training_job(job) for _, job in jobs], [_command(*job, args, script) for job in jobs], slots)


def _one_by_one(configs: Sequence[Config], args: Namespace, device: torch.device) -> None:
    for config in configs:
        train_experiment(config, output=args.output, device=device, only_fold=args.fold, fresh=args.fresh)


def _open(configs: Sequence[Config], args: Namespace) -> list[tuple[str, FoldJob]]:
    """Make the runs' folders; gives every fold with the word of --config that it is from."""
    return [
        (word, job)
        for word, config in zip(args.config, configs, strict=True)
        for job in open_experiment(
            config, output=args.output, device=torch.device("cpu"), only_fold=args.fold, fresh=args.fresh
        )
    ]


def _command(word: str, job: FoldJob, args: Namespace, script: Path) -> Command:
    words = [sys.executable, str(script), "--config", word, "--fold", str(job.fold), "--output", str(args.output)]
    words += ["--device", args.device] if args.device else []
    words += ["--set", *args.set] if args.set else []
    return Command(words, job.run.fold(job.fold) / "output.log")


def _on_ray(configs: Sequence[Config], args: Namespace) -> None:
    folds = [job for _, job in _open(configs, args)]
    with ray_place(args) as place:
        from foldsmith.launch.ray import train_folds

        train_folds(place, folds, [training_job(job) for job in folds])


def ray_place(args: Namespace):  # type: ignore[no-untyped-def]
    """A connection to the Ray cluster that the arguments name.

    Raises:
        UserError: when Ray is not installed.
    """
    try:
        from foldsmith.launch.ray import cluster
    except ModuleNotFoundError as missing:
        raise UserError(
            f"{missing.name} is not installed here", key="--launcher", hint="pip install 'foldsmith[ray]'"
        ) from None
    return cluster(args.address, args.gpus_per_job, args.cpus_per_job)

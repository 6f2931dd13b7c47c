"""What the scripts do once their configs are checked: work here, side by side, under torchrun, or on Ray."""

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from foldsmith.config import Config
from foldsmith.data.cache import check_mode
from foldsmith.errors import UserError
from foldsmith.inference.ensemble import Elsewhere
from foldsmith.launch.arguments import check_launcher
from foldsmith.launch.local import Command, check_per_device, run_queue, slots_of
from foldsmith.launch.progress import Job, training_job
from foldsmith.training.distributed import process_group, processes_here, under_torchrun
from foldsmith.training.job import FoldJob
from foldsmith.training.oof import OofWork, open_oof, predict_oof
from foldsmith.training.run import open_experiment, train_experiment, train_fold

if TYPE_CHECKING:
    from foldsmith.launch.cluster import Place


def train_command(configs: Sequence[Config], args: Namespace, device: torch.device, script: str | None) -> None:
    """Train the experiments.

    Args:
        configs: those of args.config.
        args: of train.py.
        script: the path of train.py; None in a packed kernel, which can't be started again for a fold.
    """
    check_launcher(args)
    check_per_device(args.parallel_folds)
    names = [config.name for config in configs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"two files make the run {twice[0]!r}", key="--config", hint="an experiment is named by its file"
        )
    if under_torchrun():
        check_mode(configs, processes_here())
        if args.launcher == "ray" or args.parallel_folds > 1:
            raise UserError("torchrun's processes train one fold together", key="--launcher, --parallel-folds")
        with process_group(device) as own:
            _one_by_one(configs, args, own)
        return
    folds = 1 if args.fold is not None else max(config.data.num_folds for config in configs)
    slots = slots_of(device, args.parallel_folds)
    if args.launcher == "local":
        check_mode(configs, min(len(slots), folds * len(configs)))
    if args.launcher == "local" and (min(len(slots), folds * len(configs)) == 1 or script is None):
        _one_by_one(configs, args, device)
        return
    if args.launcher == "ray":
        _on_ray(configs, args)
    elif script is not None and (jobs := _open(configs, args)):
        run_queue([training_job(job) for _, job in jobs], [_command(*job, args, script) for job in jobs], slots)


def _one_by_one(configs: Sequence[Config], args: Namespace, device: torch.device) -> None:
    for config in configs:
        where = {"output": args.output, "device": device, "only_fold": args.fold}
        train_experiment(config, **where, fresh=args.fresh, profile=args.profile)


def _open(configs: Sequence[Config], args: Namespace) -> list[tuple[str, FoldJob]]:
    """Make the runs' folders; gives every fold that is not finished, with the word of --config that it is from."""
    jobs = []
    here = torch.device("cpu")  # the GPUs are the folds'
    for word, config in zip(args.config, configs, strict=True):
        with open_experiment(
            config, output=args.output, device=here, only_fold=args.fold, fresh=args.fresh, cache=False
        ) as of_experiment:
            for job in of_experiment:
                if job.run.weights(job.fold).is_file():
                    train_fold(job)  # says so, or refuses the weights
                else:
                    jobs.append((word, job))
    return jobs


def _command(word: str, job: FoldJob, args: Namespace, script: str) -> Command:
    words = [sys.executable, script, "--config", word, "--fold", str(job.fold), "--output", str(args.output)]
    words += ["--device", args.device] if args.device else []
    words += ["--profile"] if args.profile else []
    words += ["--set", *args.set] if args.set else []
    return Command(words, job.run.fold(job.fold) / "output.log")


def _on_ray(configs: Sequence[Config], args: Namespace) -> None:
    with _place(args) as place:  # before --fresh deletes anything: there may be no cluster
        from foldsmith.launch.ray import train_folds

        folds = [job for _, job in _open(configs, args)]
        train_folds(place, folds, [training_job(job) for job in folds])


def oof_command(configs: Sequence[Config | None], args: Namespace, device: torch.device, script: str | None) -> None:
    """Write the OOF files of experiments' weights, or of args.weights.

    Args:
        configs: those of args.config; one None: the weights say it.
        args: of predict_oof.py.
        script: the path of predict_oof.py, likewise.
    """
    check_launcher(args)
    slots = slots_of(device, 1)
    if args.launcher == "local" and (len(slots) == 1 or script is None):
        for config in configs:
            predict_oof(config, args.weights, output=args.output, device=device)
        return
    works = [open_oof(config, args.weights, args.output) for config in configs]
    if args.launcher == "ray":
        with _place(args) as place:
            from foldsmith.launch.ray import predict_weights

            predict_weights(place, [(work.config, path) for work in works for path in work.headers], args.output)
        return
    assert script is not None
    words = args.config or [None]
    commands = [
        _oof_command(word, path, work, args, script)
        for word, work in zip(words, works, strict=True)
        for path in work.headers
    ]
    jobs = [Job(path.name) for work in works for path in work.headers]
    run_queue(jobs, commands, slots)


def _oof_command(word: str | None, weights: Path, work: OofWork, args: Namespace, script: str) -> Command:
    words = [sys.executable, script, "--weights", str(weights), "--output", str(args.output)]
    words += ["--config", word] if word else []
    words += ["--device", args.device] if args.device else []
    words += ["--set", *args.set] if args.set else []
    return Command(words, work.run.fold(work.headers[weights]["fold"]) / "output.log")


@contextmanager
def sharded_prediction(args: Namespace, members: int) -> Iterator[Elsewhere]:
    """What predicts test images on the Ray cluster that the arguments of ensemble_inference.py name."""
    with _place(args) as place:
        from foldsmith.launch.ray import ShardedPrediction

        yield ShardedPrediction(place, lanes=members)


def _place(args: Namespace) -> AbstractContextManager["Place"]:
    """A connection to the Ray cluster that the arguments name.

    Raises:
        UserError: when Ray is not installed.
    """
    try:
        from foldsmith.launch.cluster import cluster
    except ModuleNotFoundError as missing:
        raise UserError(
            f"{missing.name} is not installed here", key="--launcher", hint="pip install -e '.[ray]'"
        ) from None
    return cluster(args.address, args.gpus_per_job, args.cpus_per_job)

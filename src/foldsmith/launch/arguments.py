"""The arguments of train.py, predict_oof.py and ensemble_inference.py that say where the work is done."""

import math
import os
from argparse import ArgumentParser, Namespace

from foldsmith.errors import UserError


def add_launcher(parser: ArgumentParser) -> None:
    """--launcher and what goes with Ray."""
    group = parser.add_argument_group("where the work is done (docs/scale.md)")
    group.add_argument("--launcher", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    group.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster, or auto; default: Ray on this machine")
    group.add_argument("--gpus-per-job", type=float, metavar="N", help="of a Ray task; default: 1 where there are GPUs")
    group.add_argument(
        "--cpus-per-job", type=float, metavar="N", help="of a Ray task, for its threads and data loading; default: 1"
    )


def refuse_torchrun(what: str) -> None:
    """Refuse what each of torchrun's processes would do for itself, into the same files."""
    if "RANK" not in os.environ:
        return
    from foldsmith.training.distributed import under_torchrun

    if under_torchrun():
        raise UserError(
            "torchrun's processes only train together: each of them would do all of this",
            key=what,
            hint="without torchrun; --launcher ray, or one process on each GPU, spreads folds, weights and images",
        )


def check_launcher(args: Namespace) -> None:
    """Refuse arguments of Ray without Ray, and with Ray those of this machine."""
    if args.launcher == "ray":
        for key, given, hint in (
            ("--device", getattr(args, "device", None), "--gpus-per-job 0 keeps tasks on the CPU, 1 on a GPU"),
            ("--profile", getattr(args, "profile", False), "profile a fold on this machine"),
            ("--parallel-folds", getattr(args, "parallel_folds", 1) != 1, "--gpus-per-job 0.5 lets two share a GPU"),
        ):
            if given:
                raise UserError("goes with --launcher local", key=key, hint=hint)
    for name in ("address", "gpus_per_job", "cpus_per_job"):
        value, key = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is not None and args.launcher != "ray":
            raise UserError("goes with --launcher ray", key=key)
        if isinstance(value, float) and not 0 <= value < math.inf:
            raise UserError(f"expected a number from 0 up, got {value}", key=key)
        if name == "gpus_per_job" and value is not None and value > 1 and value != int(value):
            raise UserError(f"a task has a part of one GPU or whole ones, got {value}", key=key, hint="0.5, 1, 2")

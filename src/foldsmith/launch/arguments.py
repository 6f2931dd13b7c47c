"""The arguments of train.py, predict_oof.py and ensemble_inference.py that say where the work is done."""

from argparse import ArgumentParser, Namespace

from foldsmith.errors import UserError


def add_launcher(parser: ArgumentParser) -> None:
    """--launcher and what goes with Ray."""
    group = parser.add_argument_group("where the work is done (docs/scale.md)")
    group.add_argument("--launcher", choices=["local", "ray"], default="local", help="this machine, or a Ray cluster")
    group.add_argument("--address", metavar="ADDRESS", help="of the Ray cluster, or auto; default: Ray on this machine")
    group.add_argument("--gpus-per-job", type=float, metavar="N", help="of a Ray task; default: 1 where there are GPUs")
    group.add_argument("--cpus-per-job", type=float, metavar="N", help="of a Ray task, also its threads; default: 1")


def check_launcher(args: Namespace) -> None:
    """Refuse arguments of Ray without Ray."""
    for name in ("address", "gpus_per_job", "cpus_per_job"):
        value, key = getattr(args, name), f"--{name.replace('_', '-')}"
        if value is not None and args.launcher != "ray":
            raise UserError("goes with --launcher ray", key=key)
        if isinstance(value, float) and value < 0:
            raise UserError(f"expected a number from 0 up, got {value}", key=key)

"""What a packed inference kernel runs: the proof of the machine, then prediction of what lies below ../input."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from foldsmith.inference.budget import Budget, parse_duration, seconds_since_start
from foldsmith.inference.packages import refuse_missing_basics
from foldsmith.inference.supervise import supervise

OUTPUT = Path("submission.csv")
FOLDER = "configs/"  # of the packed files


def main(argv: Sequence[str] | None, files: Mapping[str, bytes], options: Mapping[str, Any]) -> None:
    """Write submission.csv into the working folder.

    Args:
        files: the packed ones, by path: options["ensemble"], and a resolved config a member below configs/.
        options: what was decided when the kernel was packed (kernel/contents.py).
    """
    args = _parser(options).parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the log of a kernel that is killed shows how far it came
    # Kernels have no network: say so to every library before it is imported, else it waits for time-outs.
    os.environ["HF_HUB_OFFLINE"] = "1"
    refuse_missing_basics(options["built_with"])
    from foldsmith.inference.find import PASSPHRASE

    if "passphrase" in options and not os.environ.get(PASSPHRASE):
        os.environ[PASSPHRASE] = options["passphrase"]
    seconds = None if args.deadline == "none" else parse_duration(args.deadline)
    budget = Budget(seconds, started=None if seconds is None else _started())
    supervise(lambda stands: _infer(files, options, args, budget, stands), args.strict_exit)


def _parser(options: Mapping[str, Any]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Write submission.csv from what lies below ../input and /kaggle/input.", allow_abbrev=False
    )
    deadline = options["deadline"]
    parser.add_argument("--deadline", default=deadline, metavar="TIME", help=f"or none; default: {deadline}")
    parser.add_argument("--models", nargs="+", type=Path, metavar="DIR", help="where weights are searched instead")
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the competition's folder")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: every CUDA device that works, else the CPU")
    parser.add_argument(
        "--strict-exit",
        action="store_true",
        default=options["strict_exit"],
        help="code 5 after a deadline, and other codes after failures, although a valid submission stands",
    )
    return parser


def _started() -> float:
    """When this process began, in the time of Budget's clock."""
    import time

    return time.monotonic() - seconds_since_start()


def _infer(
    files: Mapping[str, bytes],
    options: Mapping[str, Any],
    args: argparse.Namespace,
    budget: Budget,
    stands: Callable[[], None],
) -> None:
    from foldsmith.ensemble.file import parse_ensemble
    from foldsmith.inference.find import INPUT_ROOTS, data_below_inputs, hashes_of
    from foldsmith.inference.machine import Wanted, changed_versions, inputs_or_error, working_devices

    ensemble = parse_ensemble(files[options["ensemble"]].decode("utf-8"), options["ensemble"])
    known = options["weights"]
    hashes = {name: sha256 or known.get(name, (0, None))[1] for name, sha256 in hashes_of(ensemble).items()}
    wanted = Wanted(
        sha256=hashes,
        sizes={name: size for name, (size, _) in known.items()},
        config=_any_config(files),
        classes=options["classes"],
        folds=sum(len(member.weights) for member in ensemble.members),
        packages=list(options["built_with"]),
    )
    roots, data_root = args.models or INPUT_ROOTS, args.data
    if data_root is None and wanted.config is not None:
        data_root = data_below_inputs(wanted.config, options["competitions"])
    inputs = inputs_or_error(wanted, roots, data_root, OUTPUT)
    print(f"{len(inputs.weights)} weights files are the ensemble's")
    for line in changed_versions(options["built_with"]):
        print(f"another version than where this was packed: {line}")

    from foldsmith.inference.ensemble import Options, run_ensemble
    from foldsmith.inference.predict import pick_devices

    devices = working_devices(pick_devices(args.device))
    _say_time(ensemble, inputs.images, budget, len(devices))
    run = Options(roots, OUTPUT, devices, data_root=data_root, budget=budget, weights=inputs.weights)
    run_ensemble(ensemble, run, stands)


def _any_config(files: Mapping[str, bytes]) -> Any:
    """A member's config; they are of one competition. None where the weights were not there when this was packed."""
    from foldsmith.config import Config, parse_yaml

    for path, data in files.items():
        if path.startswith(FOLDER):
            return Config.model_validate(parse_yaml(data.decode("utf-8"), path).values)
    return None


def _say_time(ensemble: Any, images: int | None, budget: Budget, lanes: int) -> None:
    """The predicted time against the deadline."""
    from foldsmith.inference.machine import predicted_seconds

    seconds = None if images is None else predicted_seconds(ensemble, images)
    if seconds is None:
        print("the time that inference takes is not known: the ensemble file has no speeds")
        return
    hours, left = seconds / lanes / 3600, budget.left / 3600
    print(f"predicted: {hours:.2f} h for {images} images, at the speed of out-of-fold prediction; left: {left:.2f} h")
    if hours > left:
        print("WARNING: that is more than is left: views, then members will be left out")

#!/usr/bin/env python3
"""Predict the test images with an ensemble and write the submission.

./ensemble_inference.py best.yml --models runs --output submission.csv
./ensemble_inference.py best.yml --deadline 8h40m            what fits into the time; exit code 5 when not all did
./ensemble_inference.py best.yml --launcher ray --address auto   images in shards on a Ray cluster: the same submission
./ensemble_inference.py best.yml --from-predictions kept     another threshold or other weights, without any model
./ensemble_inference.py --vote a.csv b.csv c.csv             submissions, or --mean / --geometric predictions, combined
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith import __version__
    from foldsmith.errors import run
    from foldsmith.launch.arguments import add_launcher, check_launcher, refuse_torchrun
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed here: run `make install`, then `. .venv/bin/activate`")


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_torchrun("ensemble_inference.py")
    check_launcher(args)

    os.environ["HF_HUB_OFFLINE"] = "1"  # nothing is downloaded: say so before the libraries that could are imported
    from foldsmith.inference.command import run_command

    if args.launcher == "local":
        run_command(args, parser().error, lambda members: contextlib.nullcontext())
        return
    if args.deadline:
        parser().error("--deadline goes with the local launcher: a cluster promises no speed")
    from foldsmith.launch.command import sharded_prediction

    run_command(args, parser().error, lambda members: sharded_prediction(args, members))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"foldsmith {__version__}")
    parser.add_argument("ensemble", type=Path, nargs="?", help="what ensemble_search.py wrote")
    parser.add_argument(
        "--models",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="where weights are searched, recursively, beside ../input and /kaggle/input (default: the ensemble's "
        "folder and runs)",
    )
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the competition's folder (default: the config's)")
    parser.add_argument(
        "--output", type=Path, default=Path("submission.csv"), metavar="FILE", help="default: submission.csv"
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], help="default: cuda where there is one, all of its devices"
    )
    parser.add_argument("--deadline", metavar="TIME", help="such as 8h40m, 45m or 12s after the start of this program")
    parser.add_argument("--started-at", type=float, metavar="SECONDS", help="count from this time (date +%%s) instead")
    parser.add_argument("--keep-predictions", type=Path, metavar="DIR", help="save each member's test probabilities")
    parser.add_argument("--from-predictions", type=Path, metavar="DIR", help="take those instead of running models")
    parser.add_argument("--threshold", type=float, help="with --from-predictions: instead of the ensemble's")
    for way, what in (
        ("vote", "submissions: labels that more than half of them have"),
        ("mean", "predictions (.npy of --keep-predictions, or csv): their mean"),
        ("geometric", "predictions: their geometric mean"),
    ):
        parser.add_argument(f"--{way}", nargs="+", type=Path, metavar="FILE", help=f"combine {what}")
    add_launcher(parser)
    return parser


if __name__ == "__main__":
    run(main)

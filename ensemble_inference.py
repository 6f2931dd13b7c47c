#!/usr/bin/env python3
"""Predict the test images with an ensemble and write the submission.

./ensemble_inference.py best.yml --models runs --output submission.csv
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith.errors import run
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed here: run `make install`, then `. .venv/bin/activate`")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ensemble", type=Path, help="what ensemble_search.py wrote")
    parser.add_argument(
        "--models",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="where weights are searched, recursively (default: the ensemble's folder, runs, ../input, /kaggle/input)",
    )
    parser.add_argument("--data", type=Path, metavar="ROOT", help="the competition's folder (default: the config's)")
    parser.add_argument("--output", type=Path, default=Path("submission.csv"), metavar="FILE")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    args = parser.parse_args(argv)

    from foldsmith.ensemble.file import find_ensemble, read_ensemble
    from foldsmith.inference.ensemble import run_ensemble
    from foldsmith.inference.find import INPUT_ROOTS
    from foldsmith.inference.predict import pick_device

    run_ensemble(
        read_ensemble(find_ensemble(args.ensemble)),
        model_roots=args.models or [args.ensemble.parent, Path("runs"), *INPUT_ROOTS],
        data_root=args.data,
        output=args.output,
        device=pick_device(args.device),
    )


if __name__ == "__main__":
    run(main)

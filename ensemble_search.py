#!/usr/bin/env python3
"""Search the blend of models that scores best on their out-of-fold predictions; writes NAME.yml and NAME.png.

./ensemble_search.py best runs/a/a_f0.npy runs/b/b_f0.npy      one fold a model; the others are found beside it
./ensemble_search.py best runs/*/*_f0.npy --max-hours 8.67 --num-images 40000
./ensemble_search.py best level1_train_*_f0_*.npy --folds folds.npy --train-csv train.csv      the older layout
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith import __version__
    from foldsmith.errors import run
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed here: run `make install`, then `. .venv/bin/activate`")

METHODS = "auto, uniform, line, slsqp, greedy, powell, nelder-mead, differential-evolution"


def speed(text: str) -> tuple[str, float]:
    """name=images a second"""
    name, _, number = text.rpartition("=")
    if not name or not 0 < float(number) < float("inf"):
        raise ValueError(text)
    return name, float(number)


def main(argv: Sequence[str] | None = None) -> None:
    args = vars(parser().parse_args(argv))

    from foldsmith.ensemble.file import read_ensemble
    from foldsmith.ensemble.search import Options, search

    name, oof, speeds, as_json = args.pop("name"), args.pop("oof"), dict(args.pop("speed")), args.pop("json")
    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        path = search(name, oof, Options(**args, speeds=speeds))
    if as_json:
        print(json.dumps({"file": str(path), **read_ensemble(path).model_dump(mode="json")}, indent=1))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"foldsmith {__version__}")
    parser.add_argument("name", help="the ensemble file to write, with or without .yml")
    parser.add_argument("oof", nargs="+", type=Path, metavar="OOF.npy", help="one OOF file of each model")
    parser.add_argument("--method", default="auto", help=f"{METHODS} (default: auto, the best of them)")
    parser.add_argument("--seconds", type=float, default=10.0, help="for the search, at most (default: 10)")
    parser.add_argument("--metric", help="what to maximise (default: the experiments' metric)")
    parser.add_argument(
        "--thresholds", choices=["joint", "per-group", "per-class"], default="joint", help="default: joint"
    )
    parser.add_argument("--min-labels", type=int, default=0, metavar="N", help="of an image (default: 0)")
    parser.add_argument("--max-labels", type=int, metavar="N", help="of an image (default: any number)")
    parser.add_argument("--max-hours", type=float, help="that inference may take; needs --num-images")
    parser.add_argument("--num-images", type=int, metavar="N", help="test images")
    parser.add_argument("--speed", nargs="+", type=speed, default=[], metavar="MODEL=IPS", help="images a second")
    parser.add_argument("--folds", type=Path, metavar="FILE.npy", help="older layout: the fold of every row")
    parser.add_argument("--train-csv", type=Path, metavar="FILE.csv", help="older layout: the labels of every row")
    parser.add_argument("--json", action="store_true", help="print the ensemble as JSON on stdout, all else on stderr")
    return parser


if __name__ == "__main__":
    run(main)

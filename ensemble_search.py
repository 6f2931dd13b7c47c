#!/usr/bin/env python3
"""Search the blend of models that scores best on their out-of-fold predictions; writes NAME.yml.

./ensemble_search.py best runs/a/a_f0.npy runs/b/b_f0.npy      one fold a model; the others are found beside it
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
    parser.add_argument("name", help="the ensemble file to write, with or without .yml")
    parser.add_argument("oof", nargs="+", type=Path, metavar="OOF.npy", help="one OOF file of each model")
    args = parser.parse_args(argv)

    from foldsmith.ensemble.search import search

    search(args.name, args.oof)


if __name__ == "__main__":
    run(main)

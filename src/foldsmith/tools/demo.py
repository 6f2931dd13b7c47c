"""`foldsmith demo`: the whole chain on the data that comes with the project."""

import argparse
from pathlib import Path

HELP = "the whole chain on data/clipart; `make demo` calls it"
EXAMPLE = "foldsmith demo --output runs/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")


def run(args: argparse.Namespace) -> None:
    from foldsmith.demo import run_demo

    run_demo(args.output)

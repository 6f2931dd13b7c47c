"""`foldsmith compare`: two experiments side by side."""

import argparse
from pathlib import Path

HELP = "two experiments: config keys that differ, the score difference with its interval, classes won and lost"
EXAMPLE = "foldsmith compare runs/a runs/b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="a run's folder")
    parser.add_argument("b", type=Path, metavar="B", help="another one, of the same split")
    parser.add_argument("--classes", type=int, default=10, metavar="N", help="won and lost, to show (default: 10)")


def run(args: argparse.Namespace) -> None:
    from foldsmith.report.compare import as_text, compare

    print(as_text(compare(args.a, args.b), args.classes))

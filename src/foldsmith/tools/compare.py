"""`foldsmith compare`: two experiments side by side."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "two experiments: config keys that differ, the score difference with its interval, classes won and lost"
EXAMPLE = "foldsmith compare runs/a runs/b"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="a run's folder, such as runs/a")
    parser.add_argument("b", type=Path, metavar="B", help="another one, with the same labels and folds")
    what = "show the N classes that gain most and the N that lose most (default: 10)"
    parser.add_argument("--classes", type=int, default=10, metavar="N", help=what)


def run(args: argparse.Namespace) -> None:
    from foldsmith.report.compare import as_text, compare

    if args.classes < 0:
        raise UserError(f"expected a whole number from 0 up, got {args.classes}", key="--classes")
    print(as_text(compare(args.a, args.b), args.classes))

"""`foldsmith folds`: the split of an experiment, and how good it is."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "make the split of an experiment: writes csv (id, fold), says how good it is"
EXAMPLE = "foldsmith folds --config clipart_tiny.yml --output folds.csv --report classes.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--output", type=Path, default=Path("folds.csv"), metavar="FILE", help="default: folds.csv")
    parser.add_argument("--report", type=Path, metavar="CSV", help="also write a row a class: images in every fold")


def run(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.data.fold_quality import describe, fold_quality, write_report
    from foldsmith.data.folds import load_folds, make_folds
    from foldsmith.data.tables import read_table

    if args.report is not None and args.report.resolve() == args.output.resolve():
        raise UserError("is --output too: the report would replace the split", file=args.report, key="--report")
    config = load_config(args.config, args.set)
    table = read_table(config)
    fold_of = make_folds(config, table)
    made = load_folds(config, table, args.output, fold_of)
    if (made.fold_of != fold_of).any():
        raise UserError("exists and is another split", file=args.output, hint="remove it, or name another --output")
    print(f"{args.output}: {config.data.num_folds} folds, sha256 {made.sha256[:12]}")
    quality = fold_quality(table, fold_of, config.data.num_folds)
    print(describe(quality))
    if args.report is not None:
        write_report(args.report, quality)

"""`foldsmith check-data`: a look at the files before anything is trained."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "look at a new competition's files: write an experiment for them, warn of what will hurt"
EXAMPLE = "foldsmith check-data --root ../input/mine --output configs/mine.yml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--root", type=Path, required=True, metavar="DIR", help="the competition's folder")
    parser.add_argument("--output", metavar="YML", help="write an experiment for it; default: print its data section")
    parser.add_argument(
        "--from", dest="source", default="clipart_lite0", metavar="CONFIG", help="its other sections (clipart_lite0)"
    )
    parser.add_argument("--num-folds", type=int, default=5, metavar="K", help="default: 5")
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="also write the label table with a column that keeps near-duplicates in one fold, and use it",
    )


def run(args: argparse.Namespace) -> None:
    from foldsmith.config import dump_yaml
    from foldsmith.config.starter import new_config_path, write_starter
    from foldsmith.data.survey import survey, write_groups
    from foldsmith.tools.schema import foldsmith_schema

    if args.num_folds < 2:
        raise UserError(f"expected at least 2, got {args.num_folds}", key="--num-folds")
    path = new_config_path(args.output) if args.output else None
    found = survey(args.root, args.num_folds)
    print("\n".join(found.facts))
    for warning in found.warnings:
        print(f"warning: {warning}")
    section = found.section
    if args.groups is not None:
        section = section | write_groups(args.groups, found)
    if path is None:
        print(dump_yaml({"data": section}), end="")
        return
    changes = {"data": section, "model": {"input_size": found.input_size}}
    write_starter(path, args.source, foldsmith_schema(), changes)
    print(f"{path}: written; try it: ./train.py --config {path} --smoke")

"""`foldsmith convert-config`: experiment files of the 7-model iMet 2019 solution."""

import argparse
from pathlib import Path

HELP = "rewrite an experiment file of the 7-model iMet 2019 solution"
EXAMPLE = "foldsmith convert-config old.yml --output new.yml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("old", type=Path, metavar="OLD.yml", help="what the older program read")
    parser.add_argument("--output", type=Path, required=True, metavar="NEW.yml", help="the file to write")
    parser.add_argument("--no-cosine", action="store_true", help="keep the scheduler where there is a cosine section")
    parser.add_argument("--force", action="store_true", help="replace --output where it exists")


def run(args: argparse.Namespace) -> None:
    from foldsmith.convert import convert_config

    for note in convert_config(args.old, args.output, cosine=not args.no_cosine, force=args.force):
        print(note)
    print(f"{args.output}: written")

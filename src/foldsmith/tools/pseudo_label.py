"""`foldsmith pseudo-label`: a table to train on, with confident predictions in it."""

import argparse
from pathlib import Path

HELP = "write a table for data.train_csv with confident predictions in it"
EXAMPLE = "foldsmith pseudo-label --oof runs/a/a_f0.npy --threshold 0.7 --output pseudo.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", help="experiment file; with --oof it is the one beside the OOF files")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of --config")
    parser.add_argument(
        "--oof", type=Path, nargs="+", default=[], metavar="NPY", help="one OOF file a model: label training images"
    )
    parser.add_argument(
        "--test",
        type=Path,
        metavar="FILE",
        help="label test images: .npy of probabilities (rows of sample_submission.csv, classes), or a submission.csv",
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="labels of a probability above it are taken")
    parser.add_argument("--output", type=Path, default=Path("pseudo.csv"), metavar="CSV", help="default: pseudo.csv")


def run(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.pseudo_label import pseudo_label

    config = load_config(args.config, args.set) if args.config is not None else None
    pseudo_label(config, oof=args.oof, test=args.test, threshold=args.threshold, output=args.output)

"""`foldsmith preview`: what the network will see."""

import argparse
from pathlib import Path

from foldsmith.errors import UserError

HELP = "a PNG of augmented training images with their labels, and of what inference sees"
EXAMPLE = "foldsmith preview --config clipart_tiny.yml --output preview.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument(
        "--output", type=Path, default=Path("preview.png"), metavar="PNG", help="file to write (default: preview.png)"
    )
    parser.add_argument("--images", type=int, default=8, metavar="N", help="how many images, a row each (default: 8)")
    parser.add_argument(
        "--draws",
        type=int,
        default=6,
        metavar="N",
        help="how many augmented draws of each, those of the first epochs (default: 6)",
    )


def run(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.inference.submission import check_writable
    from foldsmith.report.preview import preview
    from foldsmith.training.leaves import check_leaves

    for key, number in (("--images", args.images), ("--draws", args.draws)):
        if not 1 <= number <= 50:
            raise UserError(f"expected 1 to 50, got {number}", key=key)
    check_writable(args.output)
    ids, notes = preview(load_config(args.config, args.set, check_leaves), args.output, args.images, args.draws)
    print(f"{args.output}: {', '.join(ids)}")
    for note in notes:
        print(f"note: {note}")

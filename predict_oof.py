#!/usr/bin/env python3
"""Predict every fold's images with the model that did not see them: <output>/<name>/<name>_f<k>.npy and .json.

./predict_oof.py --config clipart_lite0.yml                          all folds of runs/clipart_lite0/
./predict_oof.py --weights runs/x/x_f0.safetensors runs/x/x_f1.safetensors
./predict_oof.py --config a.yml b.yml --launcher ray                 every weights file a task of a Ray cluster
./predict_oof.py --config clipart_lite0.yml --tta search             which views pay for their time
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith import __version__
    from foldsmith.errors import UserError, run
    from foldsmith.launch.arguments import add_launcher, refuse_torchrun
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed here: run `make install`, then `. .venv/bin/activate`")


def main(argv: Sequence[str] | None = None) -> None:
    args = parser().parse_args(argv)
    refuse_torchrun("predict_oof.py")
    if not args.config and not args.weights:
        raise UserError("name an experiment or weights", hint="--config NAME and/or --weights FILE ...")
    if args.set and not args.config:
        raise UserError("overrides a config", key="--set", hint="name it with --config")
    if len(args.config) > 1 and (args.weights or args.tta):
        parser().error("--weights and --tta go with one config")

    from foldsmith.config import Config, load_config
    from foldsmith.inference.predict import pick_device
    from foldsmith.launch.command import oof_command
    from foldsmith.models.weights import read_header
    from foldsmith.training.leaves import check_leaves
    from foldsmith.training.oof import open_oof
    from foldsmith.training.tta_search import print_views

    for path in args.weights:
        read_header(path)
    configs: list[Config | None] = [load_config(config, args.set, check_leaves) for config in args.config] or [
        None
    ]  # what the weights say
    device = pick_device(args.device)
    if args.tta == "search":
        print_views(open_oof(configs[0], args.weights, args.output), device)
    else:
        oof_command(configs, args, device, globals().get("__file__"))  # a packed kernel has none


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"foldsmith {__version__}")
    parser.add_argument("--config", nargs="+", default=[], help="experiment files; looked for here, then in configs/")
    parser.add_argument("--weights", nargs="+", type=Path, default=[], metavar="FILE", help="default: all of the run's")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--tta", choices=["search"], help="write nothing; print what each view adds to the score")
    add_launcher(parser)
    return parser


if __name__ == "__main__":
    run(main)

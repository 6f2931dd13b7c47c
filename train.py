#!/usr/bin/env python3
"""Train the folds of an experiment. A finished fold is skipped, a half-finished one goes on.

./train.py --config clipart_lite0.yml                 every fold, into runs/clipart_lite0/
./train.py --config clipart_lite0.yml --fold 1 --set train.num_epochs=3 loss.name=focal --output try
./train.py --config clipart_lite0.yml --smoke         a minute that proves a config: 200 images, one epoch, one fold
./train.py --config a.yml b.yml --parallel-folds 2     folds side by side on each GPU (or on the CPU); one without it
./train.py --config a.yml b.yml --launcher ray --address auto     every fold a task of a Ray cluster
torchrun --nproc-per-node 4 train.py --config a.yml               each fold on 4 GPUs, with the result of one
./train.py --predict_oof --weights runs/x/x_f0.safetensors     the old spelling of predict_oof.py --weights
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith import __version__
    from foldsmith.errors import run
    from foldsmith.launch.arguments import add_launcher, refuse_torchrun
except ModuleNotFoundError as missing:
    sys.exit(f"{missing.name} is not installed here: run `make install`, then `. .venv/bin/activate`")


def main(argv: Sequence[str] | None = None) -> None:
    words = list(sys.argv[1:] if argv is None else argv)
    if "--predict_oof" in words:
        import predict_oof

        return predict_oof.main([word for word in words if word != "--predict_oof"])
    args = parser().parse_args(words)
    if args.smoke and (args.fresh or args.fold is not None):
        parser().error("--smoke trains fold 0 in a throw-away folder; it goes with neither --fold nor --fresh")
    if args.smoke and len(args.config) > 1:
        parser().error("--smoke tries one config")
    if args.smoke:
        refuse_torchrun("--smoke")

    from foldsmith.config import load_config
    from foldsmith.inference.predict import pick_device
    from foldsmith.launch.command import train_command
    from foldsmith.training.leaves import check_leaves
    from foldsmith.training.smoke import smoke

    configs = [load_config(config, args.set, check_leaves) for config in args.config]
    device = pick_device(args.device)
    if args.smoke:
        smoke(configs[0], device)
    else:
        train_command(configs, args, device, globals().get("__file__"))  # a packed kernel has none


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"foldsmith {__version__}")
    parser.add_argument(
        "--config", nargs="+", required=True, help="experiment files; looked for here, then in configs/"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--fold", type=int, help="train this fold only, counted from 0")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--fresh", action="store_true", help="start over: what the run (or --fold) has is deleted")
    parser.add_argument("--smoke", action="store_true", help="try the config on 200 images in a throw-away folder")
    parser.add_argument("--profile", action="store_true", help="trace some steps: profile.json in the fold's folder")
    parser.add_argument("--parallel-folds", type=int, default=1, metavar="N", help="folds that share a device")
    add_launcher(parser)
    return parser


if __name__ == "__main__":
    run(main)

#!/usr/bin/env python3
"""Train the folds of an experiment. A finished fold is skipped, a half-finished one goes on.

./train.py --config clipart_lite0.yml                 every fold, into runs/clipart_lite0/
./train.py --config clipart_lite0.yml --fold 1 --set train.num_epochs=3 loss.name=focal
./train.py --config clipart_lite0.yml --smoke         a minute that proves a config: 200 images, one epoch, one fold
./train.py --predict_oof --weights runs/x/x_f0.safetensors     the old spelling of predict_oof.py --weights
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    from foldsmith import __version__
    from foldsmith.errors import run
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

    from foldsmith.config import load_config
    from foldsmith.inference.predict import pick_device
    from foldsmith.training.leaves import check_leaves
    from foldsmith.training.run import train_experiment
    from foldsmith.training.smoke import smoke

    config = load_config(args.config, args.set, check_leaves)
    device = pick_device(args.device)
    if args.smoke:
        smoke(config, device)
    else:
        train_experiment(config, output=args.output, device=device, only_fold=args.fold, fresh=args.fresh)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"foldsmith {__version__}")
    parser.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--fold", type=int, help="train this fold only, counted from 0")
    parser.add_argument(
        "--output", type=Path, default=Path("runs"), metavar="DIR", help="folder of runs (default: runs)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.add_argument("--fresh", action="store_true", help="start over: what the run (or --fold) has is deleted")
    parser.add_argument("--smoke", action="store_true", help="try the config on 200 images in a throw-away folder")
    return parser


if __name__ == "__main__":
    run(main)

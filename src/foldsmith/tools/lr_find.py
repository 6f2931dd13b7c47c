"""`foldsmith lr-find`: the loss while the learning rate rises."""

import argparse
from pathlib import Path

HELP = "the loss while the learning rate rises: a PNG and a suggested rate"
EXAMPLE = "foldsmith lr-find --config clipart_tiny.yml --steps 60"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--output", type=Path, default=Path("lr_find.png"), metavar="PNG", help="default: lr_find.png")
    parser.add_argument("--min-lr", type=float, default=1e-6, help="where optimizer.params.lr begins (default: 1e-6)")
    parser.add_argument("--max-lr", type=float, default=1.0, help="where it ends (default: 1)")
    parser.add_argument("--steps", type=int, default=100, help="batches to train on (default: 100)")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")


def run(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.inference.predict import pick_device
    from foldsmith.training.leaves import check_leaves
    from foldsmith.training.lr_find import draw_rates, find_rate

    config, device = load_config(args.config, args.set, check_leaves), pick_device(args.device)
    curve = find_rate(config, device, lowest=args.min_lr, highest=args.max_lr, steps=args.steps)
    draw_rates(curve, args.output, config.name)
    print(f"{args.output}: {len(curve.rates)} steps; the loss falls fastest at {curve.suggested:.1e}")

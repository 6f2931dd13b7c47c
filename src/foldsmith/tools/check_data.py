"""`foldsmith check-data`: whether the tables of a competition can be read, and every image is there."""

import argparse

HELP = "read the tables and find every image; --cache decodes the images for all later runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--cache", action="store_true", help="also decode the images into the cache of data.cache")


def run(args: argparse.Namespace) -> None:
    from foldsmith.config import load_config
    from foldsmith.data.tables import read_table
    from foldsmith.training.run import fill_cache, read_images

    config = load_config(args.config, args.set)
    if args.cache:
        fill_cache(config)
    table = read_table(config)
    read_images(config, table)
    print(f"{config.data.root}: {table.words}")

"""`foldsmith check-data`: what is wrong with a competition's images and tables, before a training finds out."""

import argparse
from collections import defaultdict
from pathlib import Path

from foldsmith.errors import UserError

HELP = "decode every image and read every table; list what is bad, with the reason"
SHOWN = 3  # files of each note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, help="experiment file; looked for here, then in configs/")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--cache", action="store_true", help="decode the images into the cache of data.cache, too")
    parser.add_argument("--all", action="store_true", help="name every unusual image (gray, CMYK ...), not the first 3")


def run(args: argparse.Namespace) -> None:
    from tqdm import tqdm

    from foldsmith.config import load_config
    from foldsmith.data.check import check_images, check_tables

    config = load_config(args.config, args.set)
    paths, problems = check_tables(config)
    for problem in problems:
        print(problem)
    bad = 0
    unusual: dict[str, list[Path]] = defaultdict(list)
    for report in tqdm(check_images(paths), total=len(paths), unit="img", disable=None, leave=False):
        if report.problem is not None:
            bad += 1
            print(f"{report.path}: {report.problem}")
        for note in report.notes:
            unusual[note].append(report.path)
    for note, found in sorted(unusual.items()):
        shown = found if args.all else found[:SHOWN]
        more = f" ... ({len(found)} in all)" if len(found) > len(shown) else ""
        print(f"{note}: {', '.join(map(str, shown))}{more}")
    if bad or problems:
        raise UserError(
            f"{bad} of {len(paths)} images are bad, and {len(problems)} tables",
            file=config.data.root,
            hint="mend or remove them; data.on_bad_image: skip trains without bad images",
        )
    print(f"{config.data.root}: {len(paths)} images and their tables are good")
    if args.cache:
        from foldsmith.training.run import fill_cache

        fill_cache(config)

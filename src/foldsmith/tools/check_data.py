"""`foldsmith check-data`: a look at the files before anything is trained."""

import argparse
import copy
from collections import defaultdict
from pathlib import Path
from typing import Any

from foldsmith.errors import UserError

HELP = "look at a new competition's files and write an experiment for them; or list what is bad in an experiment's"
EXAMPLE = "foldsmith check-data --root ../input/mine --output configs/mine.yml"
SHOWN = 3  # files of each note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--root", type=Path, metavar="DIR", help="a new competition's folder")
    what.add_argument("--config", help="experiment file; looked for here, then in configs/")
    parser.add_argument(
        "--output", metavar="YML", help="of --root: write an experiment; default: print its data section"
    )
    parser.add_argument(
        "--from", dest="source", default="clipart_lite0", metavar="CONFIG", help="its other sections (clipart_lite0)"
    )
    parser.add_argument("--num-folds", type=int, default=5, metavar="K", help="of --root (default: 5)")
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="CSV",
        help="of --root: also write the label table with a column that keeps near-duplicates in one fold, and use it",
    )
    parser.add_argument("--force", action="store_true", help="replace --output and --groups where they exist")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override keys of the config")
    parser.add_argument("--cache", action="store_true", help="decode the images into the cache of data.cache, too")
    parser.add_argument("--all", action="store_true", help="name every unusual image (gray, CMYK ...), not the first 3")


def run(args: argparse.Namespace) -> None:
    _survey(args) if args.root is not None else _check(args)


def _survey(args: argparse.Namespace) -> None:
    """Look at a folder that no experiment names yet."""
    if args.cache:
        raise UserError("goes with --config, whose geometry the cache has", key="--cache")
    from foldsmith.config import dump_yaml
    from foldsmith.config.starter import new_config_path, train_command
    from foldsmith.data.survey import check_groups_path, survey, write_groups

    if args.num_folds < 2:
        raise UserError(f"expected at least 2, got {args.num_folds}", key="--num-folds")
    path = new_config_path(args.output, args.force) if args.output else None
    if args.groups is not None:
        check_groups_path(args.groups, args.root, args.force)
    found = survey(args.root, args.num_folds)
    print("\n".join(found.facts))
    for warning in found.warnings:
        print(f"warning: {warning}")
    section = found.section
    if args.groups is not None:
        section = section | write_groups(args.groups, found)
    if path is None:
        print(dump_yaml({"data": section}), end="")
        return
    _write_config(path, args.source, section, found.input_size)
    print(f"{path}: written; try it: {train_command(path)} --smoke")


def _write_config(path: Path, source: str, section: dict[str, Any], input_size: int) -> None:
    from foldsmith.config import find_config, load_config
    from foldsmith.config.loader import read_with_bases
    from foldsmith.config.starter import write_starter
    from foldsmith.tools.schema import foldsmith_schema
    from foldsmith.training.leaves import check_leaves

    values = read_with_bases(find_config(source)).values
    values |= {"data": section, "model": values.get("model", {}) | {"input_size": input_size}}
    write_starter(path, source, foldsmith_schema(), fit_task(values, section["task"]))
    load_config(path, (), check_leaves)  # what train.py would refuse is said here


def fit_task(values: dict[str, Any], task: str) -> dict[str, Any]:
    """An experiment in which loss, metric and sampler that are for another task give way to the task's usual ones."""
    from foldsmith.data.sampling import SAMPLERS
    from foldsmith.losses import LOSSES, task_of
    from foldsmith.metrics import find_metric

    loss, metric = ("cross_entropy", "accuracy") if task == "multiclass" else ("bce", "f2")
    fitted = copy.deepcopy(values)
    train = fitted.get("train", {})
    for part in (fitted, *train.get("stages", [])):
        name = (part.get("loss") or {}).get("name")
        if name in LOSSES and task_of(LOSSES[name]) != task:
            part["loss"] = {"name": loss}
    for part in (train, *train.get("stages", [])):
        name = (part.get("sampler") or {}).get("name")
        if name in SAMPLERS and task not in SAMPLERS[name].tasks:
            del part["sampler"]
    try:
        find_metric(fitted.get("metric", metric), task)
    except UserError:
        fitted["metric"] = metric
    return fitted


def _check(args: argparse.Namespace) -> None:
    """Decode every image and read every table of an experiment."""
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
    if args.cache and not problems and (not bad or config.data.on_bad_image == "skip"):
        from foldsmith.training.run import fill_cache

        fill_cache(config)
    if bad or problems:
        raise UserError(
            f"{bad} of {len(paths)} images are bad, and {len(problems)} tables",
            file=config.data.root,
            hint="mend or remove them; data.on_bad_image: skip trains without bad images",
        )
    print(f"{config.data.root}: {len(paths)} images and their tables are good")

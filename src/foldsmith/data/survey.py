"""A look at the files of a new competition: what the data section of an experiment has to say about them."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import Config
from foldsmith.data.fold_quality import fold_quality
from foldsmith.data.folds import make_folds
from foldsmith.data.images import find_images
from foldsmith.data.layout import find_files, images_in
from foldsmith.data.near_duplicates import Looks, groups_of_pairs, look_at, near_pairs
from foldsmith.data.sheets import csv_line, read_csv
from foldsmith.data.tables import Table, read_sample, read_table
from foldsmith.errors import UserError
from foldsmith.files import write_text

FEW = 10  # images of a class, below which it is named
ODD = 3.0  # longer side / shorter side
SIZES = (64, 96, 128, 160, 192, 224, 256, 288, 320)  # suggested input sizes


@dataclass(frozen=True)
class Survey:
    """What was found. `section` is the data section that reads it; `warnings` are sentences."""

    section: dict[str, Any]
    input_size: int
    table: Table
    train: Looks
    test: Looks
    groups: NDArray[np.int64]  # of every training image: near-duplicates share one
    pairs_with_test: list[tuple[int, int]]  # row of the table, position in the test set
    facts: list[str]
    warnings: list[str]


def survey(root: Path, folds: int = 5) -> Survey:
    """Find tables, columns and images below a folder, read every image once, and look for trouble.

    Args:
        root: the competition's folder.
        folds: of the split by which near-duplicates are judged.

    Raises:
        UserError: no label table fits the images, or it can't be read.
    """
    if not root.is_dir():
        raise UserError("is no folder", file=root, key="--root")
    layout = find_files(root)
    section = layout.section | {"num_folds": folds}
    config = _config(section)
    table = read_table(config)
    train_paths = find_images(config.data_path("train_dir"), table.ids, config.data.image_extension)
    test_paths = _test_paths(config)
    train, test = look_at(train_paths, "training images"), look_at(test_paths, "test images")
    size, geometry = suggest_size(train.sizes[train.sizes[:, 0] > 0])
    section["geometry"] = geometry
    pairs = near_pairs(_joined(train, test))
    within = [(a, b) for a, b in pairs if b < len(table)]
    across = [(a, b - len(table)) for a, b in pairs if a < len(table) <= b]
    groups = groups_of_pairs(len(table), within)
    facts = [f"{root}: {table.words}, task {config.data.task}", *_facts(train, test), f"suggested input_size {size}"]
    warnings = [
        *layout.warnings,
        *_sample_warnings(config, test_paths),
        *_table_warnings(config, table),
        *_image_warnings(table, train, test_paths, test),
    ]
    warnings += _duplicate_warnings(config, table, groups, across, test_paths)
    return Survey(section, size, table, train, test, groups, across, facts, warnings)


def _config(section: dict[str, Any]) -> Config:
    """The least experiment around a data section."""
    values = {"model": {"arch": "-", "input_size": 64}, "train": {"num_epochs": 1}, "optimizer": {"name": "adamw"}}
    return Config.model_validate(values | {"data": section})


def _test_paths(config: Config) -> list[Path]:
    """The test images: those of sample_submission.csv; without one, all of their folder; none where there is none."""
    folder = config.data_path("test_dir")
    if not folder.is_dir():
        return []
    if not config.data_path("sample_submission").is_file():
        return sorted(images_in(folder))
    sheet, column = read_sample(config)
    return find_images(config.data_path("test_dir"), sheet.column(column), config.data.image_extension)


def suggest_size(sizes: NDArray[np.int64]) -> tuple[int, str]:
    """Input size and geometry for images of some (height, width): the largest size that half of the images fill.

    Where a tenth of the images is longer than 1.5 times their width (or the other way round), squashing would change
    what is seen: `fit` keeps the aspect, and the longer side counts.
    """
    if not len(sizes):
        raise UserError("no image can be read")
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    elongated = np.quantile(longer / shorter, 0.9) > 1.5
    typical = float(np.median(longer if elongated else np.sqrt(shorter * longer)))
    fits = [size for size in SIZES if size <= typical]
    return (fits[-1] if fits else SIZES[0]), "fit" if elongated else "squash"


def _joined(train: Looks, test: Looks) -> Looks:
    return Looks(
        np.concatenate([train.hashes, test.hashes]),
        np.concatenate([train.thumbs, test.thumbs]),
        np.concatenate([train.sizes, test.sizes]),
        errors={},
    )


def _facts(train: Looks, test: Looks) -> list[str]:
    lines = []
    for what, looks in (("training", train), ("test", test)):
        sizes = looks.sizes[looks.sizes[:, 0] > 0]
        if not len(sizes):
            lines.append(f"no {what} images")
            continue
        low, middle, high = (np.quantile(sizes, share, axis=0).astype(int) for share in (0, 0.5, 1))
        listed = ", ".join(f"{size[0]} x {size[1]}" for size in (low, middle, high))
        lines.append(f"{len(looks.sizes)} {what} images; height x width, smallest, median, largest: {listed}")
    return lines


def _sample_warnings(config: Config, test_paths: list[Path]) -> list[str]:
    path = config.data_path("sample_submission")
    if path.is_file():
        return []
    rows = f"a row a test image, such as `{test_paths[0].stem},`" if test_paths else "a row a test image"
    return [
        f"{path} is not there: training does without, ensemble_inference.py writes its rows (an id and a label "
        f"column; {rows})"
    ]


def _table_warnings(config: Config, table: Table) -> list[str]:
    counts, names = table.counts(), table.classes.names
    lines = []
    for what, which in (
        ("without an image", np.flatnonzero(counts == 0)),
        (f"with fewer than {FEW} images", np.flatnonzero((counts > 0) & (counts < FEW))),
    ):
        if len(which):
            which = which[np.argsort(counts[which], kind="stable")]
            listed = ", ".join(f"{names[index]} ({counts[index]})" for index in which[:8])
            lines.append(f"{len(which)} of {len(names)} classes {what}: {listed}{', ...' if len(which) > 8 else ''}")
    unlabelled = int((np.diff(table.starts) == 0).sum())
    if unlabelled:
        lines.append(f"{unlabelled} images have no label")
    quality = fold_quality(table, make_folds(config, table), config.data.num_folds)
    if len(quality.rare):
        lines.append(f"{len(quality.rare)} classes have fewer images than the {config.data.num_folds} folds")
    return lines


def _image_warnings(table: Table, train: Looks, test_paths: list[Path], test: Looks) -> list[str]:
    lines = []
    for what, names, looks in (
        ("training", table.ids, train),
        ("test", [path.name for path in test_paths], test),
    ):
        if looks.errors:
            listed = ", ".join(f"{names[index]} ({reason})" for index, reason in list(looks.errors.items())[:5])
            lines.append(f"{len(looks.errors)} {what} images can't be read: {listed}")
        sizes = np.maximum(looks.sizes, 1)
        odd = np.flatnonzero((looks.sizes[:, 0] > 0) & (sizes.max(axis=1) > ODD * sizes.min(axis=1)))
        if len(odd):
            listed = ", ".join(f"{names[index]} ({sizes[index][0]} x {sizes[index][1]})" for index in odd[:5])
            lines.append(f"{len(odd)} {what} images are more than {ODD:g} times as long as wide: {listed}")
    return lines


def _duplicate_warnings(
    config: Config, table: Table, groups: NDArray[np.int64], across: list[tuple[int, int]], test_paths: list[Path]
) -> list[str]:
    lines = []
    fold_of = make_folds(config, table)
    many = [group for group, count in Counter(groups.tolist()).items() if count > 1]
    split = [group for group in many if len(set(fold_of[groups == group].tolist())) > 1]
    if many:
        listed = "; ".join(" = ".join(table.ids[row] for row in np.flatnonzero(groups == g)[:3]) for g in split[:4])
        text = f"{len(many)} groups of near-duplicate training images, {len(split)} of them in more than one fold"
        advice = ": their out-of-fold score is too good; --groups FILE.csv keeps each in one fold" if split else ""
        lines.append(f"{text}{advice}{f' ({listed})' if listed else ''}")
    if across:
        listed = "; ".join(f"{table.ids[row]} = {test_paths[position].stem}" for row, position in across[:5])
        lines.append(f"{len(across)} pairs of near-duplicates between training and test images: {listed}")
    return lines


def check_groups_path(path: Path, root: Path, force: bool) -> None:
    """Refuse to write the groups over something: without `force` over any file, always over the competition's own.

    Raises:
        UserError: says which of the two.
    """
    if path.suffix.lower() != ".csv":
        raise UserError("expected the name of a .csv file to write", file=path, key="--groups")
    if not path.exists():
        return
    own = [each for each in (find_files(root).tables if root.is_dir() else []) if each.samefile(path)]
    if own:
        hint = "name a new file; foldsmith never writes over a competition's own"
        raise UserError("is one of the tables that are read", file=path, key="--groups", hint=hint)
    if not force:
        hint = "take another name, or add --force"
        raise UserError("exists; it is not overwritten", file=path, key="--groups", hint=hint)


def write_groups(path: Path, found: Survey) -> dict[str, str]:
    """The label table with a column `look` that near-duplicates share; returns the keys that make a config use it."""
    sheet = read_csv(_config(found.section).data_path("train_csv"))
    column = "look" if "look" not in sheet.columns else "look_group"
    rows = [[*row, str(group)] for row, group in zip(sheet.rows, found.groups, strict=True)]
    write_text(path, "".join(map(csv_line, [[*sheet.columns, column], *rows])))
    return {"train_csv": str(path), "group_column": column}

"""The K-fold split: stratified by label, made once, kept in folds.csv, checked by its hash ever after."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import Config
from foldsmith.data.sheets import csv_line, read_csv
from foldsmith.data.stratify import stratified_folds
from foldsmith.data.tables import Table
from foldsmith.errors import UserError
from foldsmith.files import sha256_lines, write_text


@dataclass(frozen=True)
class Folds:
    """fold_of[i] is the fold of row i of the label table."""

    fold_of: NDArray[np.int64]
    sha256: str

    def valid_rows(self, fold: int) -> NDArray[np.int64]:
        return np.flatnonzero(self.fold_of == fold)


def load_folds(config: Config, table: Table, path: Path, made: NDArray[np.int64] | None = None) -> Folds:
    """The folds of a run: read from `path` (folds.csv of the run), made and written there when it does not exist.

    Args:
        made: the split to write, when it was made already.
    """
    if path.is_file():
        fold_of = read_folds_csv(path, table, config.data.num_folds)
        named = config.data.folds
        if named is not None and Path(named).is_file() and not np.array_equal(fold_of, make_folds(config, table)):
            raise UserError(f"is another split than {named}", file=path, key="data.folds", hint="--fresh starts over")
    else:
        fold_of = make_folds(config, table) if made is None else made
        lines = [csv_line([name, str(fold)]) for name, fold in zip(table.ids, fold_of, strict=True)]
        write_text(path, "".join(["id,fold\n", *lines]))
    return Folds(fold_of, folds_sha256(table.ids, fold_of))


def folds_sha256(ids: list[str], fold_of: NDArray[np.int64]) -> str:
    """What artefacts of one split have in common."""
    return sha256_lines(f"{fold},{name}" for name, fold in zip(ids, fold_of, strict=True))


def make_folds(config: Config, table: Table) -> NDArray[np.int64]:
    """Split as the config says: an existing file, or stratified by label, with every group in one fold.

    Multi-label tables are split by iterative stratification (Sechidis et al. 2011); with groups, scikit-learn's
    StratifiedGroupKFold goes by each image's rarest label. Multiclass tables: scikit-learn's StratifiedKFold.
    """
    num_folds = config.data.num_folds
    if config.data.folds is not None:
        path = Path(config.data.folds)
        read = _read_folds_npy if path.suffix == ".npy" else read_folds_csv
        fold_of = read(path, table, num_folds)
        _check_groups(fold_of, table, path)
        return fold_of
    if len(table) < num_folds:
        raise UserError(f"{len(table)} images are too few for {num_folds} folds", key="data.num_folds")
    if table.groups is not None:
        return _split_groups(config, table, table.groups)
    if config.data.task == "multilabel":
        return stratified_folds(table, num_folds, config.data.folds_seed)
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=config.data.folds_seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer images than folds: `foldsmith folds` reports them
        return _fold_of(splitter.split(np.zeros(len(table)), _classes_to_spread(table, num_folds)), len(table))


def _classes_to_spread(table: Table, num_folds: int) -> NDArray[np.int64]:
    """Each image's rarest label (of one label: it); all alike where no class can be in every fold.

    scikit-learn refuses to split then, and there is nothing to stratify by.
    """
    labels = table.rarest()
    return labels if np.bincount(labels).max() >= num_folds else np.zeros_like(labels)


def _split_groups(config: Config, table: Table, groups: list[str]) -> NDArray[np.int64]:
    from sklearn.model_selection import StratifiedGroupKFold

    num_folds, count = config.data.num_folds, len(set(groups))
    if count < num_folds:
        raise UserError(
            f"{config.data.group_column!r} has {count} groups, too few for {num_folds} folds (data.num_folds)",
            key="data.group_column",
            hint="fewer folds, or a finer column",
        )
    splitter = StratifiedGroupKFold(num_folds, shuffle=True, random_state=config.data.folds_seed)
    labels = _classes_to_spread(table, num_folds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of classes with fewer images than folds
        fold_of = _fold_of(splitter.split(np.zeros(len(table)), labels, groups), len(table))
    sizes = np.bincount(fold_of, minlength=num_folds)
    if not sizes.all():
        raise UserError(
            f"the {count} groups of {config.data.group_column!r} cannot be spread over {num_folds} folds: "
            f"fold {sizes.argmin()} would be empty",
            key="data.group_column",
            hint="fewer folds (data.num_folds), another data.folds_seed, or a finer column",
        )
    return fold_of


def _fold_of(splits: Iterable[tuple[Any, NDArray[np.int64]]], images: int) -> NDArray[np.int64]:
    fold_of = np.zeros(images, dtype=np.int64)
    for fold, (_, rows) in enumerate(splits):
        fold_of[rows] = fold
    return fold_of


def _check_groups(fold_of: NDArray[np.int64], table: Table, path: Path) -> None:
    """A group in two folds of an existing split would be trained on and validated."""
    if table.groups is None:
        return
    first: dict[str, tuple[int, str]] = {}
    for fold, group, name in zip(fold_of.tolist(), table.groups, table.ids, strict=True):
        known, other = first.setdefault(group, (fold, name))
        if known != fold:
            raise UserError(
                f"group {group!r} is in fold {known} ({other}) and in fold {fold} ({name})",
                file=path,
                key="data.folds",
                hint="take data.folds out, and the split is made by data.group_column",
            )


def read_folds_csv(path: Path, table: Table, num_folds: int) -> NDArray[np.int64]:
    """Folds by id from a csv (id, fold) that has each id of the table once."""
    sheet = read_csv(path)
    if not {"id", "fold"} <= set(sheet.columns):
        raise UserError(f"has the columns {sheet.columns}, not id and fold", file=path, line=1)
    ids, folds = sheet.column("id"), sheet.column("fold")
    by_id = dict(zip(ids, folds, strict=True))
    if len(by_id) != len(ids) or set(by_id) != set(table.ids):
        strange = sorted(set(by_id) ^ set(table.ids))[:3] or ["a duplicate"]
        raise UserError(
            f"its {len(ids)} ids are not the {len(table)} of the label table; for example {', '.join(strange)}",
            file=path,
            hint="the table changed after the split was made: start over with --fresh, or name another split",
        )
    for fold, line in zip(folds, sheet.lines, strict=True):
        if not (fold.isdecimal() and int(fold) < num_folds):
            raise UserError(f"fold {fold!r} is not in 0..{num_folds - 1} (data.num_folds)", file=path, line=line)
    return _all_used(np.array([int(by_id[name]) for name in table.ids], dtype=np.int64), num_folds, path)


def _read_folds_npy(path: Path, table: Table, num_folds: int) -> NDArray[np.int64]:
    try:
        with open(path, "rb") as file:
            folds = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", file=path, key="data.folds") from None
    if folds.shape != (len(table),) or folds.dtype.kind not in "iu" or folds.min() < 0 or folds.max() >= num_folds:
        raise UserError(
            f"holds {folds.dtype} {folds.shape}, not {len(table)} folds in 0..{num_folds - 1}",
            file=path,
            key="data.folds",
        )
    return _all_used(folds.astype(np.int64), num_folds, path)


def _all_used(fold_of: NDArray[np.int64], num_folds: int, path: Path) -> NDArray[np.int64]:
    empty = np.flatnonzero(np.bincount(fold_of, minlength=num_folds) == 0)
    if len(empty):
        raise UserError(f"no image is in fold {empty[0]} of 0..{num_folds - 1} (data.num_folds)", file=path)
    return fold_of

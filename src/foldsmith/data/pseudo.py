"""What an experiment trains on where that is not its table: pseudo labels, validated on the original ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import Config
from foldsmith.config.section import Component
from foldsmith.data.folds import Folds
from foldsmith.data.images import find_images
from foldsmith.data.sampling import build_sampler
from foldsmith.data.sheets import checked_ids, id_column, read_label_csv
from foldsmith.data.tables import Table, encode_labels, label_words, valid_csv_path
from foldsmith.errors import UserError


@dataclass(frozen=True)
class TrainTable:
    """The rows and labels to train on, next to the experiment's own table, which says what is validated.

    `table` has the same classes. `home[i]` is the row of the experiment's table whose fold row i shares; -1 where it
    is trained on in every fold.
    """

    table: Table
    home: NDArray[np.int64]

    def rows(self, folds: Folds, fold: int) -> NDArray[np.int64]:
        """Rows of `table` that a fold trains on, ascending: all but those that share the fold."""
        rows = np.flatnonzero((self.home < 0) | (folds.fold_of[self.home] != fold))
        if not len(rows):
            raise UserError(f"fold {fold} has no image to train on", key="data.train_csv")
        return rows

    def fewest_draws(self, sampler: Component | None, fold_of: NDArray[np.int64] | None, num_folds: int) -> int:
        """Images of an epoch of the fold that has the fewest; of all rows where the split is not known yet.

        Args:
            sampler: train.sampler.
            fold_of: the fold of each row of the experiment's table.
        """
        trained = [np.ones(len(self.home), dtype=np.bool_)]
        if fold_of is not None:
            trained = [(self.home < 0) | (fold_of[self.home] != fold) for fold in range(num_folds)]
        if sampler is None:
            return min(int(mask.sum()) for mask in trained)
        draws = (build_sampler(sampler, self.table.take(np.flatnonzero(mask))) for mask in trained)
        return min(each.length for each in draws if each is not None)


def read_train_table(config: Config, table: Table) -> TrainTable:
    """What to train on: data.train_csv; the experiment's table itself (the same object) where that is one file.

    Rows of `table` that train_csv lacks are not trained on. Rows that only train_csv has are trained on in every fold,
    but where data.group_column puts them into a group of `table`: there they share the group's fold.
    """
    path = config.data_path("train_csv")
    if path.resolve() == valid_csv_path(config).resolve():
        return TrainTable(table, np.arange(len(table)))
    sheet = read_label_csv(path, config)
    ids = checked_ids(sheet, id_column(sheet, config))
    if not ids:
        raise UserError("has no rows", file=path)
    words = label_words(sheet, config, sheet.separator or table.separator)
    index = {token: position for position, token in enumerate(table.classes.tokens)}
    hint = f"the classes are those of {valid_csv_path(config)} and labels.csv; "
    starts, indices = encode_labels(sheet, ids, words, index, hint)
    row_of = {name: row for row, name in enumerate(table.ids)}
    home = np.array([row_of.get(name, -1) for name in ids], dtype=np.int64)
    column = config.data.group_column
    if table.groups is not None and column in sheet.columns:
        row_of_group = {group: row for row, group in enumerate(table.groups)}
        for row, group in enumerate(sheet.column(str(column))):
            if home[row] < 0:
                home[row] = row_of_group.get(group, -1)
    return TrainTable(Table(ids, starts, indices, table.classes, table.separator), home)


def train_images(config: Config, train: TrainTable, table: Table, paths: Sequence[Path]) -> list[Path]:
    """The image of every row of `train.table`. Rows that `table` lacks: in data.train_dir, else in data.test_dir.

    Args:
        paths: the image of every row of `table`.
    """
    if train.table is table:
        return list(paths)
    known = dict(zip(table.ids, paths, strict=True))
    extra = [name for name in train.table.ids if name not in known]
    if extra:
        folders = config.data_path("train_dir"), config.data_path("test_dir")
        found = find_images(folders[0], extra, config.data.image_extension, elsewhere=folders[1])
        known |= zip(extra, found, strict=True)
    return [known[name] for name in train.table.ids]

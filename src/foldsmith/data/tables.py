"""Label tables: csv files into ids, sparse labels and the class list. Ids are text, byte for byte, always."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import Config
from foldsmith.data.sheets import (
    ID_COLUMNS,
    PSEUDO,
    Sheet,
    checked_ids,
    group_column,
    id_column,
    label_column,
    read_csv,
    read_label_csv,
)
from foldsmith.errors import UserError, did_you_mean
from foldsmith.files import sha256_lines

SEPARATORS = [";", "|", ","]  # and the space, where these are rare


@dataclass(frozen=True)
class Classes:
    """The class list. `tokens` are what tables and submissions write, `names` what people read; in the same order."""

    tokens: list[str]
    names: list[str]

    @cached_property
    def sha256(self) -> str:
        return sha256_lines(self.tokens)


@dataclass(frozen=True)
class Table:
    """Images and their labels. Labels are sparse: image i has class indices `indices[starts[i]:starts[i + 1]]`."""

    ids: list[str]
    starts: NDArray[np.int64]
    indices: NDArray[np.int32]
    classes: Classes
    separator: str = " "  # between labels
    groups: list[str] | None = None  # of every image, where data.group_column is named
    by_columns: bool = False  # the csv has a column a class

    def __len__(self) -> int:
        return len(self.ids)

    def targets(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Multi-hot labels, bool (rows, classes); of all rows by default."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        dense = np.zeros((len(rows), len(self.classes.tokens)), dtype=np.bool_)
        for position, row in enumerate(rows):
            dense[position, self.indices[self.starts[row] : self.starts[row + 1]]] = True
        return dense

    @property
    def words(self) -> str:
        """What was read, for people: a label column that was split wrongly shows here."""
        names = self.classes.names
        shown = ", ".join(names[:5]) + (" ..." if len(names) > 5 else "")
        how = "a column a class" if self.by_columns else f"split at {self.separator!r}"
        labels = f"{len(self.indices) / max(1, len(self)):.2f} labels an image, {how}"
        return f"{len(self)} images, {len(names)} classes ({shown}), {labels}"

    @cached_property
    def sha256(self) -> str:
        """Changes with any id, label, class or group, or their order."""
        labels = (f"{self.starts[row]} {name}" for row, name in enumerate(self.ids))
        parts = [self.classes.sha256, sha256_lines(labels), hashlib.sha256(self.indices.tobytes()).hexdigest()]
        return sha256_lines(parts if self.groups is None else [*parts, sha256_lines(self.groups)])

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """The table of some rows, in the order given."""
        parts = [self.indices[self.starts[row] : self.starts[row + 1]] for row in rows]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        indices = np.concatenate(parts) if parts else self.indices[:0]
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        return Table(
            [self.ids[row] for row in rows], starts, indices, self.classes, self.separator, groups, self.by_columns
        )

    def counts(self) -> NDArray[np.int64]:
        """Images of every class, (classes,)."""
        return np.bincount(self.indices, minlength=len(self.classes.tokens))

    def rarest(self) -> NDArray[np.int64]:
        """The class of every image that has the fewest images; the number of classes where it has no label."""
        counts = self.counts()
        lengths = np.diff(self.starts)
        rarest = np.full(len(self), len(counts), dtype=np.int64)
        by_count = np.lexsort((self.indices, counts[self.indices], np.repeat(np.arange(len(self)), lengths)))
        rarest[lengths > 0] = self.indices[by_count[self.starts[:-1][lengths > 0]]]
        return rarest


def valid_csv_path(config: Config) -> Path:
    """The csv of the experiment's table, by which folds, validation and OOF go: data.valid_csv, else data.train_csv.

    A train_csv that `foldsmith pseudo-label` wrote leaves that to <root>/train.csv.
    """
    if config.data.valid_csv is not None:
        return Path(config.data.valid_csv)
    if config.data.train_csv is not None and PSEUDO in read_csv(Path(config.data.train_csv), max_rows=0).columns:
        return Path(config.data.root) / "train.csv"
    return config.data_path("train_csv")


def read_table(config: Config) -> Table:
    """The table of an experiment: ids, original labels, classes and groups."""
    sheet = read_label_csv(valid_csv_path(config), config)
    if PSEUDO in sheet.columns:
        raise UserError(
            f"has a column {PSEUDO!r}: validation would go by pseudo labels",
            file=sheet.path,
            line=1,
            key="data.valid_csv",
            hint="name the table of the original labels: data.valid_csv: ...",
        )
    ids = checked_ids(sheet, id_column(sheet, config))
    if not ids:
        raise UserError("has no rows", file=sheet.path)
    texts = sheet.column(label_column(sheet, config))
    one_label = config.data.task == "multiclass"
    separator = sheet.separator or config.data.label_separator or (" " if one_label else find_separator(texts))
    words = label_words(sheet, config, separator)
    classes = read_classes(config, words, sheet.classes)
    index = _token_index(classes, words)
    if list(index) != classes.tokens:  # the table writes names, so the submission does
        classes = Classes(classes.names, classes.names)
    at = f"labels are split at {separator!r} (data.label_separator)"
    hint = f"see {config.data_path('labels_csv')}; {'data.task: multiclass splits no label' if one_label else at}; "
    starts, indices = encode_labels(sheet, ids, words, index, hint)
    return Table(ids, starts, indices, classes, separator, group_column(sheet, config), sheet.classes is not None)


def label_words(sheet: Sheet, config: Config, separator: str) -> list[list[str]]:
    """The labels of every row as they are written; of a multiclass task exactly one, which is never split."""
    texts = sheet.column(label_column(sheet, config))
    if config.data.task == "multilabel":
        for text, line in zip(texts, sheet.lines, strict=True):
            if text.startswith("[") and text.endswith("]"):
                raise UserError(
                    f"the labels are a list in brackets: {text!r}",
                    file=sheet.path,
                    line=line,
                    hint="write them with a mark or a space between, without brackets and quotes: a;b",
                )
        return [[word.strip() for word in text.split(separator) if word.strip()] for text in texts]
    ids = sheet.column(id_column(sheet, config))
    for name, text, line in zip(ids, texts, sheet.lines, strict=True):
        if not text.strip():
            raise UserError(
                f"{name!r} has no label ({text!r}), and data.task: multiclass wants exactly one",
                file=sheet.path,
                line=line,
                hint="give it a label, remove the row, or take data.task: multilabel",
            )
        if sheet.classes is not None and separator in text:
            raise UserError(
                f"{name!r} has the labels {text.split(separator)}, and data.task: multiclass wants exactly one",
                file=sheet.path,
                line=line,
                hint="take data.task: multilabel",
            )
    return [[text.strip()] for text in texts]


def encode_labels(
    sheet: Sheet, ids: list[str], words: list[list[str]], index: Mapping[str, int], hint: str
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Labels as `starts` and `indices` of a Table; one that `index` does not have is an error with its line."""
    starts = np.zeros(len(ids) + 1, dtype=np.int64)
    indices: list[int] = []
    for row, labels in enumerate(words):
        for label in labels:
            if label not in index:
                raise UserError(
                    f"label {label!r} of {ids[row]!r} is not in the class list ({len(index)} classes)",
                    file=sheet.path,
                    line=sheet.lines[row],
                    hint=hint + did_you_mean(label, index),
                )
        indices.extend(sorted({index[label] for label in labels}))
        starts[row + 1] = len(indices)
    return starts, np.array(indices, dtype=np.int32)


def find_separator(texts: list[str]) -> str:
    """The mark that occurs in most label texts; the space where no mark occurs in a tenth of the texts with a space."""
    counts = {separator: sum(separator in text for text in texts) for separator in (*SEPARATORS, " ")}
    mark = max(SEPARATORS, key=lambda separator: counts[separator])
    return mark if counts[mark] > 0.1 * counts[" "] else " "


def read_classes(config: Config, words: list[list[str]], columns: list[str] | None = None) -> Classes:
    """The class list from labels.csv, in its order; without one, the columns of the classes, where the table has such;
    else every label that occurs, in natural order."""
    path = config.data_path("labels_csv")
    # A file called labels.csv may be the label table itself.
    if not path.is_file() or (config.data.labels_csv is None and path == valid_csv_path(config)):
        if config.data.labels_csv is not None:
            raise UserError("file not found", file=path, key="data.labels_csv")
        tokens = columns or sorted({word for labels in words for word in labels}, key=_natural)
        if not tokens:
            raise UserError("no image has a label", file=valid_csv_path(config))
        return Classes(tokens, tokens)
    sheet = read_csv(path)
    tokens = checked_ids(sheet, sheet.columns[0])
    return Classes(tokens, sheet.column(sheet.columns[1]) if len(sheet.columns) > 1 else tokens)


def _token_index(classes: Classes, words: list[list[str]]) -> dict[str, int]:
    """Class index by what the table writes: class ids or, where no label is an id, class names."""
    by_token = {token: index for index, token in enumerate(classes.tokens)}
    by_name = {name: index for index, name in enumerate(classes.names)}
    used = {word for labels in words for word in labels}
    if not used or not used.isdisjoint(by_token) or used.isdisjoint(by_name):
        return by_token
    for index, name in enumerate(classes.names):
        if name in used and by_name[name] != index:
            raise UserError(
                f"two classes are called {name!r}, and the table names classes by name", key="data.labels_csv"
            )
    return by_name


def _natural(text: str) -> list[tuple[int, int, str]]:
    """A sort key by which "9" comes before "10"."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", text)
    return [(0, int(digits), digits) if digits else (1, 0, other) for digits, other in parts]


def read_sample(config: Config) -> tuple[Sheet, str]:
    """sample_submission.csv and its id column, which may have another name than the label table's."""
    sheet = read_csv(config.data_path("sample_submission"))
    usual = [column for column in sheet.columns if column.lower() in ID_COLUMNS]
    column = next(name for name in (config.data.id_column, *usual, sheet.columns[0]) if name in sheet.columns)
    if not checked_ids(sheet, column):
        raise UserError("has no rows", file=sheet.path)
    return sheet, column


def class_columns(config: Config, sample: Sheet, id_column: str, tokens: Sequence[str]) -> list[str] | None:
    """The sample's column of every class, where it has one a class; None where it has one column for all labels.

    Columns are called as the classes in the label table or as in labels.csv, in any order.

    Raises:
        UserError: when there are more columns than one, and not those of the classes.
    """
    others = [column for column in sample.columns if column != id_column]
    ways = [list(tokens)]
    if config.data_path("labels_csv").is_file():
        labels = read_csv(config.data_path("labels_csv"))
        name_of = {row[0]: row[1] for row in labels.rows if len(row) > 1}
        ways.append([name_of.get(token, token) for token in tokens])
    for columns in ways:
        if sorted(columns) == sorted(others):
            return columns
    if len(others) == 1:
        return None
    columns = max(ways, key=lambda way: len({*way} & {*others}))
    wrong = {
        "missing": [each for each in columns if each not in others],
        "unknown": [each for each in others if each not in columns],
    }
    found = "; ".join(f"{what}: {', '.join(names[:5])} ({len(names)})" for what, names in wrong.items() if names)
    raise UserError(
        f"beside {id_column!r} it has {len(others)} columns that are not those of the {len(tokens)} classes; {found}",
        file=sample.path,
        line=1,
        hint="one column for all labels, or one of probabilities for each class, named like the class",
    )

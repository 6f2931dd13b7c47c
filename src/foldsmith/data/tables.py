"""Label tables: csv files into ids, sparse labels and the class list. Ids are text, byte for byte, always."""

import csv
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import Config
from foldsmith.errors import UserError, did_you_mean
from foldsmith.files import sha256_lines

ID_COLUMNS = ["id", "image_id", "image", "image_name", "img_id", "filename", "file_name", "file", "name"]
LABEL_COLUMNS = ["attribute_ids", "labels", "label", "tags", "target", "targets", "classes", "class", "category"]
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

    def __len__(self) -> int:
        return len(self.ids)

    def targets(self, rows: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
        """Multi-hot labels, bool (rows, classes); of all rows by default."""
        rows = np.arange(len(self)) if rows is None else np.asarray(rows)
        dense = np.zeros((len(rows), len(self.classes.tokens)), dtype=np.bool_)
        for position, row in enumerate(rows):
            dense[position, self.indices[self.starts[row] : self.starts[row + 1]]] = True
        return dense

    @cached_property
    def sha256(self) -> str:
        """Changes with any id, label, class or their order."""
        labels = (f"{self.starts[row]} {name}" for row, name in enumerate(self.ids))
        return sha256_lines(
            [self.classes.sha256, sha256_lines(labels), hashlib.sha256(self.indices.tobytes()).hexdigest()]
        )

    def take(self, rows: NDArray[np.int64]) -> "Table":
        """The table of some rows, in the order given."""
        parts = [self.indices[self.starts[row] : self.starts[row + 1]] for row in rows]
        starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        indices = np.concatenate(parts) if parts else self.indices[:0]
        return Table([self.ids[row] for row in rows], starts, indices, self.classes, self.separator)


@dataclass(frozen=True)
class Sheet:
    """A csv file as text: the header, and each record with the line on which it ends."""

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: Sequence[int]

    def column(self, name: str) -> list[str]:
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


def read_csv(path: Path) -> Sheet:
    """Read a csv (comma, semicolon or tab; quotes; a BOM; any line ends) without interpreting a single value."""
    if not path.is_file():
        raise UserError("file not found", file=path, hint="data.root or the key that names this file is wrong")
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            for record, line in _records(file, delimiter):
                rows.append(record)
                lines.append(line)
    except UnicodeDecodeError as error:
        raise UserError(f"is not UTF-8 text ({error.reason})", file=path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", file=path) from None
    except csv.Error as error:
        raise UserError(f"is not valid csv: {error}", file=path, line=(lines[-1] + 1) if lines else 1) from None
    if not rows:
        raise UserError("is empty", file=path)
    header = rows[0]
    if len(set(header)) != len(header):
        raise UserError(f"two columns have the same name: {header}", file=path, line=lines[0])
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(header):
            raise UserError(f"{len(row)} fields, but the header has {len(header)}", file=path, line=line)
    return Sheet(path, header, rows[1:], lines[1:])


def _records(file: Any, delimiter: str) -> Iterator[tuple[list[str], int]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    for record in reader:
        if record:  # an empty line
            yield record, reader.line_num


def _delimiter(header: str) -> str:
    """The delimiter that splits the header into the most fields; of equal ones the comma."""
    return max((",", ";", "\t"), key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _find_column(sheet: Sheet, named: str | None, usual: list[str], key: str) -> str:
    if named is not None:
        if named not in sheet.columns:
            hint = did_you_mean(named, sheet.columns)
            raise UserError(
                f"no column {named!r} in the header {sheet.columns}", file=sheet.path, line=1, key=key, hint=hint
            )
        return named
    by_lower = {column.lower(): column for column in sheet.columns}
    for name in usual:
        if name in by_lower:
            return by_lower[name]
    raise UserError(
        f"which of the columns {sheet.columns} is it?", file=sheet.path, line=1, key=key, hint=f"name it: {key}: ..."
    )


def id_column(sheet: Sheet, config: Config) -> str:
    """The column of image ids: the one named in the config, else the first of the usual names."""
    return _find_column(sheet, config.data.id_column, ID_COLUMNS, "data.id_column")


def label_column(sheet: Sheet, config: Config) -> str:
    """The column of labels: the one named in the config, else a usual name, else the only column beside the id."""
    others = [column for column in sheet.columns if column != id_column(sheet, config)]
    if config.data.label_column is None and len(others) == 1:
        return others[0]
    return _find_column(sheet, config.data.label_column, LABEL_COLUMNS, "data.label_column")


def checked_ids(sheet: Sheet, column: str) -> list[str]:
    """The ids of a table; an empty or repeated one is an error that names the lines."""
    ids = sheet.column(column)
    seen: dict[str, int] = {}
    for name, line in zip(ids, sheet.lines, strict=True):
        if not name:
            raise UserError(f"empty {column}", file=sheet.path, line=line)
        if name in seen:
            raise UserError(f"duplicate id {name!r}, first on line {seen[name]}", file=sheet.path, line=line)
        seen[name] = line
    return ids


def read_table(config: Config) -> Table:
    """The training table of a config: ids, labels and classes."""
    sheet = read_csv(config.data_path("train_csv"))
    ids = checked_ids(sheet, id_column(sheet, config))
    if not ids:
        raise UserError("has no rows", file=sheet.path)
    texts = sheet.column(label_column(sheet, config))
    separator = config.data.label_separator or _separator(texts)
    words = [[word.strip() for word in text.split(separator) if word.strip()] for text in texts]
    classes = read_classes(config, words)
    index = _token_index(classes, words)
    if list(index) != classes.tokens:  # the table writes names, so the submission does
        classes = Classes(classes.names, classes.names)

    starts = np.zeros(len(ids) + 1, dtype=np.int64)
    indices: list[int] = []
    for row, labels in enumerate(words):
        for label in labels:
            if label not in index:
                raise UserError(
                    f"label {label!r} of {ids[row]!r} is not in the class list ({len(classes.tokens)} classes)",
                    file=sheet.path,
                    line=sheet.lines[row],
                    hint=f"see {config.data_path('labels_csv')}; {did_you_mean(label, index)}",
                )
        indices.extend(sorted({index[label] for label in labels}))
        starts[row + 1] = len(indices)
    return Table(ids, starts, np.array(indices, dtype=np.int32), classes, separator)


def _separator(texts: list[str]) -> str:
    """The mark that occurs in most label texts; the space where no mark occurs in a tenth of the texts with a space."""
    counts = {separator: sum(separator in text for text in texts) for separator in (*SEPARATORS, " ")}
    mark = max(SEPARATORS, key=lambda separator: counts[separator])
    return mark if counts[mark] > 0.1 * counts[" "] else " "


def read_classes(config: Config, words: list[list[str]]) -> Classes:
    """The class list from labels.csv, in its order; without one, every label that occurs, in natural order."""
    path = config.data_path("labels_csv")
    if not path.is_file():
        if config.data.labels_csv is not None:
            raise UserError("file not found", file=path, key="data.labels_csv")
        tokens = sorted({word for labels in words for word in labels}, key=_natural)
        if not tokens:
            raise UserError("no image has a label", file=config.data_path("train_csv"))
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
    if len(sheet.columns) != 2:
        raise UserError(f"has the columns {sheet.columns}; expected the id and one more", file=sheet.path, line=1)
    return sheet, column

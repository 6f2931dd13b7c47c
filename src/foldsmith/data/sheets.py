"""csv files as text: nothing is interpreted, ids survive byte for byte, and every record knows its line."""

import csv
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldsmith.config import Config
from foldsmith.errors import UserError, did_you_mean

ID_COLUMNS = ["id", "image_id", "image", "image_name", "img_id", "filename", "file_name", "file", "name"]
LABEL_COLUMNS = ["attribute_ids", "labels", "label", "tags", "target", "targets", "classes", "class", "category"]
PSEUDO = "pseudo"  # the column that `foldsmith pseudo-label` adds: 1 where a row has any pseudo label


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


def read_csv(path: Path, max_rows: int | None = None) -> Sheet:
    """Read a csv (comma, semicolon or tab; quotes; a BOM; any line ends) without interpreting a single value.

    Args:
        max_rows: rows to read at most; 0 reads the header only.
    """
    if not path.is_file():
        hint = f"data.root or the key that names this file is wrong; relative paths begin in {Path.cwd()}"
        raise UserError("file not found", file=path, hint=hint)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            delimiter = _delimiter(file.readline())
            file.seek(0)
            records = _records(file, delimiter)
            for record, line in itertools.islice(records, None if max_rows is None else max_rows + 1):
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


def csv_line(fields: Iterable[str]) -> str:
    """A line of a csv with its line end; a field is quoted where it holds a mark that means something."""
    return (
        ",".join('"' + field.replace('"', '""') + '"' if set(field) & set(',"\r\n') else field for field in fields)
        + "\n"
    )


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
    apart = {id_column(sheet, config), config.data.group_column, PSEUDO}
    others = [column for column in sheet.columns if column not in apart]
    if config.data.label_column is None and len(others) == 1:
        return others[0]
    return _find_column(sheet, config.data.label_column, LABEL_COLUMNS, "data.label_column")


def group_column(sheet: Sheet, config: Config) -> list[str] | None:
    """The group of every row, where the config names a column of groups."""
    if config.data.group_column is None:
        return None
    groups = sheet.column(_find_column(sheet, config.data.group_column, [], "data.group_column"))
    if "" in groups:
        line = sheet.lines[groups.index("")]
        hint = "an image that belongs to no group needs a group of its own"
        raise UserError("the group is empty", file=sheet.path, line=line, key="data.group_column", hint=hint)
    return groups


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

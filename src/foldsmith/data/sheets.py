"""csv files as text: nothing is interpreted, ids survive byte for byte, and every record knows its line."""

import codecs
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
LABELS = "labels"  # the column that the columns of classes are joined into
ZERO_OR_ONE = {"0": False, "1": True, "0.0": False, "1.0": True}
_BYTE_ORDER_MARKS = {  # that of UTF-32 begins with that of UTF-16
    "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),
    "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
}
_UTF16 = "if it is UTF-16, save it as UTF-8;"
PSEUDO = "pseudo"  # the column that `foldsmith pseudo-label` adds: 1 where a row has any pseudo label


@dataclass(frozen=True)
class Sheet:
    """A csv file as text: the header, and each record with the line on which it ends.

    Where a label table had a column a class, `classes` are these columns, and `separator` stands between the labels
    that they were joined into.
    """

    path: Path
    columns: list[str]
    rows: list[list[str]]
    lines: Sequence[int]
    classes: list[str] | None = None
    separator: str | None = None
    delimiter: str = ","

    def column(self, name: str) -> list[str]:
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


def read_csv(path: Path, max_rows: int | None = None) -> Sheet:
    """Read a csv (comma, semicolon, tab or |; quotes; a BOM; any line ends) without interpreting a single value.

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
    except UnicodeDecodeError:
        raise _not_utf8(path) from None
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
        if any("\0" in field for field in row):
            hint = f"{_UTF16} no file's name holds one"
            raise UserError("holds a NUL byte", file=path, line=line, hint=hint)
        if len(row) != len(header):
            raise UserError(f"{len(row)} fields, but the header has {len(header)}", file=path, line=line)
    return Sheet(path, header, rows[1:], lines[1:], delimiter=delimiter)


def _not_utf8(path: Path) -> UserError:
    """The line of the first byte that is not UTF-8, counted in the whole file: decoders see a part of it."""
    data, start = path.read_bytes(), 0
    for name, marks in _BYTE_ORDER_MARKS.items():
        if data.startswith(marks):
            return UserError(f"is {name} text, not UTF-8", file=path, line=1, hint="save it as UTF-8")
    try:
        data.decode()
    except UnicodeDecodeError as error:
        start = error.start
    line = len((data[:start] + b".").splitlines())
    hint = f"save it as UTF-8; {data[start : start + 1]!r} may be of Latin-1 or Windows-1252"
    return UserError(f"is not UTF-8 text (byte {start})", file=path, line=line, hint=hint)


def _records(file: Any, delimiter: str) -> Iterator[tuple[list[str], int]]:
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    for record in reader:
        if record:  # an empty line
            yield record, reader.line_num


def _delimiter(header: str) -> str:
    """The delimiter that splits the header into the most fields; of equal ones the comma.

    A bar, which names of classes may hold, is one only where nothing else splits the header.
    """
    fields = {each: len(next(csv.reader([header], delimiter=each), [])) for each in (",", ";", "\t", "|")}
    bars = fields.pop("|")
    best = max(fields, key=lambda each: fields[each])
    return "|" if fields[best] == 1 < bars else best


def csv_line(fields: Iterable[str], delimiter: str = ",") -> str:
    """A line of a csv with its line end; a field is quoted where it holds a mark that means something."""
    marks = {delimiter, '"', "\r", "\n"}
    quoted = ('"' + field.replace('"', '""') + '"' if marks & set(field) else field for field in fields)
    return delimiter.join(quoted) + "\n"


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
    hint = f"name it: {key}: ..."
    if len(sheet.columns) == 1:
        hint = f"there is one column only: comma, semicolon, tab or | may stand between columns; else {hint}"
    what = f"which of the columns {sheet.columns} is it?"
    raise UserError(what, file=sheet.path, line=1, key=key, hint=hint)


def id_column(sheet: Sheet, config: Config) -> str:
    """The column of image ids: the one named in the config, else the first of the usual names."""
    return _find_column(sheet, config.data.id_column, ID_COLUMNS, "data.id_column")


def label_column(sheet: Sheet, config: Config) -> str:
    """The column of labels: the one named in the config, else a usual name, else the only column beside the id."""
    others = _beside_ids(sheet, config)
    named = config.data.label_column
    if named is None and len(others) == 1:
        return others[0]
    return _find_column(sheet, LABELS if isinstance(named, list) else named, LABEL_COLUMNS, "data.label_column")


def _beside_ids(sheet: Sheet, config: Config) -> list[str]:
    apart = {id_column(sheet, config), config.data.group_column, PSEUDO}
    return [column for column in sheet.columns if column not in apart]


def read_label_csv(path: Path, config: Config) -> Sheet:
    """A label table. One with a column a class, 0 or 1 in each, comes as one with a column of labels.

    The columns of classes are those that data.label_column lists; by default all beside the id and the group, where
    none has a usual name of a label column and all hold 0 and 1 alone.
    """
    sheet = read_csv(path)
    named = config.data.label_column
    if isinstance(named, list):
        if LABELS in sheet.columns and not set(named) & set(sheet.columns):  # what `foldsmith pseudo-label` wrote
            return sheet
        return _joined(sheet, [_find_column(sheet, each, [], "data.label_column") for each in named])
    others = _beside_ids(sheet, config)
    if named is None and zero_one_columns(sheet, others) == others and len(others) > 1:
        return _joined(sheet, others)
    return sheet


def zero_one_columns(sheet: Sheet, columns: Sequence[str]) -> list[str]:
    """Those of the columns that hold 0 and 1 alone; none where one is called as label columns usually are."""
    if any(column.lower() in LABEL_COLUMNS for column in columns):
        return []
    return [column for column in columns if set(sheet.column(column)) <= ZERO_OR_ONE.keys()]


def _joined(sheet: Sheet, classes: list[str]) -> Sheet:
    """The table with one column of labels in the place of the columns of the classes."""
    positions = {sheet.columns.index(name): name for name in classes}
    separator = next((mark for mark in " ;|,\t" if not any(mark in name for name in classes)), None)
    if separator is None:
        hint = "rename a column, so that one of these marks can stand between labels"
        raise UserError("every one of ' ;|,' and tab is in a class's name", file=sheet.path, line=1, hint=hint)
    kept = [index for index, name in enumerate(sheet.columns) if index not in positions and name != LABELS]
    rows = []
    for fields, line in zip(sheet.rows, sheet.lines, strict=True):
        for index, name in positions.items():
            if fields[index] not in ZERO_OR_ONE:
                text = f"{fields[index]!r} in column {name!r} is neither 0 nor 1"
                raise UserError(text, file=sheet.path, line=line, key="data.label_column")
        labels = separator.join(name for index, name in positions.items() if ZERO_OR_ONE[fields[index]])
        rows.append([*(fields[index] for index in kept), labels])
    columns = [*(sheet.columns[index] for index in kept), LABELS]
    return Sheet(sheet.path, columns, rows, sheet.lines, classes, separator)


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

"""submission.csv: the columns and the row order of sample_submission.csv, ids byte for byte."""

import csv
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from foldsmith.data.sheets import Sheet, csv_line
from foldsmith.errors import UserError
from foldsmith.files import atomic_path
from foldsmith.metrics import Probabilities, Targets


def label_lists(predicted: Targets, tokens: Sequence[str], separator: str) -> list[str]:
    """The labels of every image as text, in the order of the class list.

    Args:
        predicted: bool (images, classes).
        tokens: what the label table writes for a class.
    """
    return [separator.join(tokens[int(index)] for index in np.flatnonzero(row)) for row in predicted]


@dataclass(frozen=True)
class Submission:
    """Where and in which form predictions are written; known before the first model runs."""

    path: Path
    sample: Sheet
    id_column: str
    columns: list[str] | None  # of every class, where the sample asks for probabilities
    tokens: list[str]  # what the label table writes for a class
    separator: str

    def write(self, probabilities: Probabilities, predicted: Targets, prior: Sequence[str], bad: Sequence[int]) -> str:
        """Write the file; returns what is in it, in words.

        Args:
            probabilities: float32 (images, classes), rows as the sample's.
            predicted: bool, the same shape.
            prior: tokens that images of which nothing is known get.
            bad: rows of such images.
        """
        known = np.array([token in prior for token in self.tokens])
        predicted, probabilities = predicted.copy(), probabilities.copy()
        predicted[bad], probabilities[bad] = known, known
        if self.columns is not None:
            write_probabilities(self.path, self.sample, self.id_column, self.columns, probabilities)
            return f"a probability for each of {len(self.tokens)} classes"
        write_submission(self.path, self.sample, self.id_column, label_lists(predicted, self.tokens, self.separator))
        return f"{np.count_nonzero(predicted) / len(predicted):.2f} labels an image"

    def stands(self) -> bool:
        """Whether there is a file with the sample's columns and ids."""
        try:
            _check(self.path, self.sample, self.id_column)
        except UserError:
            return False
        return True

    def write_prior(self, prior: Sequence[str]) -> None:
        """Write the most frequent labels for every image."""
        nothing = np.zeros((len(self.sample.rows), len(self.tokens)), dtype=np.float32)
        self.write(nothing, nothing > 0, prior, range(len(nothing)))


def write_submission(path: Path, sample: Sheet, id_column: str, values: Sequence[str]) -> None:
    """Write one value a row of the sample, which has two columns."""
    (column,) = (column for column in sample.columns if column != id_column)
    _write(path, sample, id_column, [column], ([value] for value in values))


def write_probabilities(
    path: Path, sample: Sheet, id_column: str, columns: Sequence[str], probabilities: Probabilities
) -> None:
    """Write a probability a class, with as many digits as tell a float32 from its neighbours.

    Args:
        columns: the sample's column of every class (tables.class_columns).
        probabilities: float32 (rows of the sample, classes).
    """
    # Row by row: as text at once, 40,000 images of 1,103 classes would take over 10 GB.
    rows = (row.astype(np.float32).astype(str).tolist() for row in probabilities)
    _write(path, sample, id_column, columns, rows)


def _write(path: Path, sample: Sheet, id_column: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write the sample's columns in its order and with its delimiter.

    Args:
        rows: the values of `columns`, which are all but the id's.
    """
    place = {column: position for position, column in enumerate([id_column, *columns])}
    order = [place[column] for column in sample.columns]
    fields = ([name, *values] for name, values in zip(sample.column(id_column), rows, strict=True))
    lines = (csv_line([each[position] for position in order], sample.delimiter) for each in fields)
    first = list(itertools.islice(lines, 100))
    size = sum(len(line.encode()) for line in first) * len(sample.rows) // max(1, len(first))
    with atomic_path(path, size) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.writelines(itertools.chain([csv_line(sample.columns, sample.delimiter)], first, lines))
        _check(temporary, sample, id_column)


def check_writable(path: Path, key: str = "--output") -> None:
    """Find out now, not after hours, that a file can't be written."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError("can't be written: it is a folder, or lies in one that is read-only", file=path, key=key)


def _check(path: Path, sample: Sheet, id_column: str) -> None:
    """Read the file as the competition will: the sample's columns, its ids in its order."""
    position, width = sample.columns.index(id_column), len(sample.columns)
    try:
        with open(path, encoding="utf-8", newline="") as file:
            records = csv.reader(file, delimiter=sample.delimiter, strict=True)
            fits = next(records, None) == sample.columns
            for record, name in zip_longest(records, sample.column(id_column)):
                fits = fits and record is not None and len(record) == width and record[position] == name
    except (OSError, ValueError, csv.Error):  # not UTF-8 is a ValueError
        fits = False
    if not fits:
        raise UserError("does not have the columns and ids of the sample submission", file=path)

"""submission.csv: the columns and the row order of sample_submission.csv, ids byte for byte."""

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldsmith.data.sheets import Sheet, read_csv
from foldsmith.errors import UserError
from foldsmith.files import write_text
from foldsmith.metrics import Targets


def label_lists(predicted: Targets, tokens: Sequence[str], separator: str) -> list[str]:
    """The labels of every image as text, in the order of the class list.

    Args:
        predicted: bool (images, classes).
        tokens: what the label table writes for a class.
    """
    return [separator.join(tokens[int(index)] for index in np.flatnonzero(row)) for row in predicted]


def write_submission(path: Path, sample: Sheet, id_column: str, values: Sequence[str]) -> None:
    """Write one value a row of the sample, which has two columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(sample.columns)
    for name, value in zip(sample.column(id_column), values, strict=True):
        writer.writerow([name, value] if sample.columns[0] == id_column else [value, name])
    write_text(path, text.getvalue())
    _check(path, sample, id_column)


def check_writable(path: Path) -> None:
    """Find out now, not after hours, that a file can't be written."""
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UserError("can't be written: it is a folder, or lies in one that is read-only", file=path, key="--output")


def _check(path: Path, sample: Sheet, id_column: str) -> None:
    """Read the file as the competition will: the sample's columns, its ids in its order."""
    written = read_csv(path)
    if written.columns != sample.columns or written.column(id_column) != sample.column(id_column):
        raise UserError("does not have the columns and ids of the sample submission", file=path)

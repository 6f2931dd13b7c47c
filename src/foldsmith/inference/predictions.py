"""Test predictions as files: each member's probabilities, and beside them what a submission of them needs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldsmith.data.sheets import Sheet
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import atomic_path, read_json, write_json
from foldsmith.inference.submission import Submission
from foldsmith.metrics import Probabilities

FORM = "predictions.json"


def save_predictions(
    folder: Path,
    submission: Submission,
    names: Sequence[str],
    predictions: Sequence[Probabilities],
    prior: Sequence[str],
    bad: Sequence[int],
) -> None:
    """Write `<name>.npy`, float32 (images, classes), for every member, and predictions.json: ids, classes, columns.

    Args:
        bad: rows of images that could not be read; they get the labels of `prior`.
    """
    for name, probabilities in zip(names, predictions, strict=True):
        with atomic_path(folder / f"{name}.npy") as temporary, open(temporary, "wb") as file:
            np.lib.format.write_array(file, probabilities, allow_pickle=False)
    sample = submission.sample
    form = {
        "sample_columns": sample.columns,
        "id_column": submission.id_column,
        "ids": sample.column(submission.id_column),
        "class_columns": submission.columns,
        "classes": submission.tokens,
        "separator": submission.separator,
        "prior": list(prior),
        "bad": list(bad),
    }
    write_json(folder / FORM, form)


@dataclass(frozen=True)
class Form:
    """What a submission of kept predictions needs."""

    submission: Submission
    prior: list[str]
    bad: list[int]  # rows of images that could not be read


def read_form(folder: Path, output: Path) -> Form:
    """How the predictions of a folder are written, from its predictions.json."""
    form = read_json(folder / FORM, hint="--keep-predictions writes it")
    try:
        position = form["sample_columns"].index(form["id_column"])
        width = len(form["sample_columns"])
        rows = [[name if column == position else "" for column in range(width)] for name in form["ids"]]
        sample = Sheet(folder / FORM, form["sample_columns"], rows, range(2, len(rows) + 2))
        columns, tokens, separator = form["class_columns"], form["classes"], form["separator"]
        submission = Submission(output, sample, form["id_column"], columns, tokens, separator)
        return Form(submission, form["prior"], form["bad"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            f"is not what --keep-predictions writes: {error!r}", file=folder / FORM, code=EXIT_UNTRUSTED
        ) from None


def load_predictions(path: Path, shape: tuple[int, int]) -> Probabilities:
    """Probabilities that `save_predictions` wrote.

    Args:
        shape: (images, classes) that they must have.
    """
    try:
        with open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", file=path, hint="--keep-predictions writes such files") from None
    if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
        raise UserError(
            f"holds {array.dtype} {array.shape} instead of finite float32 {shape} (images, classes)",
            file=path,
            code=EXIT_UNTRUSTED,
        )
    return np.asarray(array)

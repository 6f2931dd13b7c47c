"""Test predictions as files: each member's probabilities, and beside them what a submission of them needs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import model_validator

from foldsmith.config.schema import Section
from foldsmith.config.validate import schema_problems
from foldsmith.data.oof_files import ONE_HEADER
from foldsmith.data.sheets import Sheet
from foldsmith.ensemble.file import Ensemble
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import read_json, sha256_lines, write_array, write_json
from foldsmith.inference.submission import Submission
from foldsmith.metrics import Probabilities

FORM = "predictions.json"


class Made(Section):
    """What a member's predictions follow from."""

    sha256: list[str]  # of the weights files; none where the ensemble names none
    views: list[str]
    merge: str


class Form(Section):
    """predictions.json: what a submission of kept predictions needs, and whose they are."""

    task: str
    classes_sha256: str
    classes: list[str]  # tokens of the label table
    class_columns: list[str] | None  # of the sample, where it asks for probabilities
    sample_columns: list[str]
    id_column: str
    ids: list[str]
    separator: str
    prior: list[str]
    bad: list[int]  # rows of images that could not be read
    members: dict[str, Made]

    @model_validator(mode="after")
    def _consistent(self) -> "Form":
        if sha256_lines(self.classes) != self.classes_sha256:
            raise ValueError("classes have another hash than classes_sha256")
        if self.id_column not in self.sample_columns:
            raise ValueError(f"id_column {self.id_column!r} is none of sample_columns")
        if not all(0 <= row < len(self.ids) for row in self.bad):
            raise ValueError(f"bad names rows that are not in 0..{len(self.ids) - 1}")
        rest = len(self.sample_columns) - 1
        if rest != (1 if self.class_columns is None else len(self.classes)):
            raise ValueError(f"{rest} sample_columns beside the id's do not fit {len(self.classes)} classes")
        return self

    def submission(self, folder: Path, output: Path) -> Submission:
        """Where and in which form a submission of these predictions is written."""
        position, width = self.sample_columns.index(self.id_column), len(self.sample_columns)
        rows = [[name if column == position else "" for column in range(width)] for name in self.ids]
        sample = Sheet(folder / FORM, self.sample_columns, rows, range(2, len(rows) + 2))
        return Submission(output, sample, self.id_column, self.class_columns, self.classes, self.separator)

    def check_made_by(self, ensemble: Ensemble, folder: Path) -> None:
        """Refuse predictions of other weights, views or classes than an ensemble's; its shares may be others."""
        if self.classes_sha256 != ensemble.classes_sha256 or self.task != ensemble.task:
            raise UserError("holds predictions of other classes than the ensemble's", file=folder / FORM)
        for member in ensemble.members:
            made = self.members.get(member.name)
            if made is None:
                known = ", ".join(self.members) or "none"
                raise UserError(f"holds no predictions of {member.name!r}; it has {known}", file=folder / FORM)
            if made != made_by(ensemble, member.name):
                message = f"holds predictions of {member.name!r} by other weights, views or merge than the ensemble's"
                raise UserError(message, file=folder / FORM, hint="predict again with --keep-predictions")


def made_by(ensemble: Ensemble, name: str) -> Made:
    """What an ensemble's member is predicted from."""
    (member,) = (each for each in ensemble.members if each.name == name)
    return Made(sha256=member.sha256, views=member.views, merge=member.merge)


def save_predictions(
    folder: Path,
    submission: Submission,
    ensemble: Ensemble,
    predictions: Sequence[Probabilities],
    bad: Sequence[int],
) -> None:
    """Write `<name>.npy`, float32 (images, classes), for the first members, and predictions.json.

    Args:
        bad: rows of images that could not be read; they get the labels of the ensemble's prior.
    """
    names = [member.name for member in ensemble.members[: len(predictions)]]
    for name, probabilities in zip(names, predictions, strict=True):
        write_array(folder / f"{name}.npy", probabilities)
    sample = submission.sample
    form = Form(
        task=ensemble.task,
        classes_sha256=ensemble.classes_sha256,
        classes=submission.tokens,
        class_columns=submission.columns,
        sample_columns=sample.columns,
        id_column=submission.id_column,
        ids=sample.column(submission.id_column),
        separator=submission.separator,
        prior=ensemble.prior,
        bad=list(bad),
        members={name: made_by(ensemble, name) for name in names},
    )
    write_json(folder / FORM, form.model_dump(mode="json"))


def read_form(folder: Path) -> Form:
    """predictions.json of a folder."""
    values = read_json(folder / FORM, hint="--keep-predictions writes it")
    form, problems = schema_problems(values if isinstance(values, dict) else {}, Form)
    if form is None:
        where = ".".join(str(part) for part in problems[0].path)
        raise UserError(
            f"is not what --keep-predictions writes: {where}: {problems[0].message}",
            file=folder / FORM,
            code=EXIT_UNTRUSTED,
        )
    return form


def load_predictions(path: Path, shape: tuple[int, int]) -> Probabilities:
    """Probabilities that `save_predictions` wrote.

    Args:
        shape: (images, classes) that they must have.
    """
    try:
        with ONE_HEADER, open(path, "rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {error}", file=path, hint="--keep-predictions writes such files") from None
    if array.shape != shape or array.dtype != np.float32 or not ((array >= 0) & (array <= 1)).all():
        raise UserError(
            f"holds {array.dtype} {array.shape} instead of float32 {shape} (images, classes) in 0..1",
            file=path,
            code=EXIT_UNTRUSTED,
        )
    return np.asarray(array)

"""Submissions from what was predicted before: other weights or another threshold in seconds; votes and means."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldsmith.data.sheets import Sheet, read_csv
from foldsmith.data.tables import find_separator
from foldsmith.ensemble.file import Ensemble, blend
from foldsmith.errors import UserError
from foldsmith.inference.predictions import load_predictions, read_form
from foldsmith.inference.submission import write_probabilities, write_submission
from foldsmith.metrics import Probabilities, decide


def submit_predictions(ensemble: Ensemble, folder: Path, output: Path, threshold: float | None) -> None:
    """A submission from each member's saved predictions, by the ensemble file's weights and threshold.

    Args:
        folder: of --keep-predictions.
        threshold: instead of the ensemble's.
    """
    read_form(folder).check_made_by(ensemble, folder)
    files = [folder / f"{member.name}.npy" for member in ensemble.members]
    probabilities = blend(_load(files), [member.weight for member in ensemble.members])
    _submit(probabilities, folder, output, ensemble, threshold)


def combine(way: str, files: Sequence[Path], output: Path, ensemble: Ensemble | None, threshold: float | None) -> None:
    """One submission from several submissions or predictions.

    Args:
        way: vote (submissions of labels), mean or geometric (.npy of --keep-predictions, or csv of probabilities).
        ensemble, threshold: what decides the labels of a mean of .npy files; the threshold goes before.
    """
    if way == "vote":
        vote(files, output, single=ensemble.task == "multiclass" if ensemble else None)
        return
    kinds = {path.suffix for path in files}
    if kinds == {".npy"}:
        _submit(_average(_load(files), way), files[0].parent, output, ensemble, threshold)
    elif kinds == {".csv"}:
        _average_csv(files, way, output)
    else:
        raise UserError(f"{', '.join(map(str, files))}: all are .npy or all are .csv", key=f"--{way}")


def vote(files: Sequence[Path], output: Path, single: bool | None = None) -> None:
    """The labels that more than half of the submissions have; where all have one label an image, the most frequent.

    Of equally frequent ones that of the file that is named first wins.

    Args:
        single: whether a value is one label, spaces and all; None: unless some value holds several words.
    """
    sheets, id_column = _same_rows(files)
    (column, *others) = [name for name in sheets[0].columns if name != id_column]
    if others:
        raise UserError("a vote needs submissions of two columns, id and labels", key="--vote")
    values = [sheet.column(column) for sheet in sheets]
    separator = find_separator([value for of_file in values for value in of_file])
    if single is None:
        single = all(value and separator not in value.strip() for of_file in values for value in of_file)
    voted = []
    for of_image in zip(*values, strict=True):
        labels = [[value] if single else _split(value, separator) for value in of_image]
        counts = Counter(label for each in labels for label in dict.fromkeys(each))
        if single:
            voted.append(counts.most_common(1)[0][0])
        else:
            voted.append(separator.join(label for label, count in counts.items() if 2 * count > len(files)))
    write_submission(output, sheets[0], id_column, voted)
    print(f"written: {output} (a vote of {len(files)} submissions)")


def _split(value: str, separator: str) -> list[str]:
    return [label for label in (part.strip() for part in value.split(separator)) if label]


def _load(files: Sequence[Path]) -> list[Probabilities]:
    """Predictions that lie in one form: beside each file there is the same predictions.json."""
    forms = {path.parent: read_form(path.parent) for path in files}
    first, *others = forms.values()
    for folder, form in zip(list(forms)[1:], others, strict=True):
        if form.classes != first.classes or form.ids != first.ids:
            raise UserError(f"has other images or classes than {files[0].parent}", file=folder)
    return [load_predictions(path, (len(first.ids), len(first.classes))) for path in files]


def _submit(
    probabilities: Probabilities, folder: Path, output: Path, ensemble: Ensemble | None, threshold: float | None
) -> None:
    form = read_form(folder)
    if form.task == "multiclass" and threshold is not None:
        raise UserError("one label an image needs no threshold", key="--threshold", hint="leave it out")
    if ensemble is None and threshold is None and form.task == "multilabel":
        raise UserError("the threshold is missing", key="--threshold", hint="name it, or the ensemble file")
    chosen = threshold if threshold is not None or ensemble is None else ensemble.threshold
    if isinstance(chosen, list) and len(chosen) != len(form.classes):
        raise UserError(f"{len(chosen)} thresholds do not fit {len(form.classes)} classes", key="threshold")
    limits = (ensemble.min_labels, ensemble.max_labels) if ensemble else (0, None)
    submission = form.submission(folder, output)
    what = submission.write(probabilities, decide(probabilities, chosen, *limits), form.prior, form.bad)
    print(f"written: {output} ({len(probabilities)} images, {what})")


def _average(members: Sequence[Probabilities], way: str) -> Probabilities:
    if way == "mean":
        return blend(members, [1.0] * len(members))
    logs = [np.log(np.maximum(member, np.float32(1e-12))) for member in members]
    return np.exp(blend(logs, [1.0] * len(members)))


def _average_csv(files: Sequence[Path], way: str, output: Path) -> None:
    sheets, id_column = _same_rows(files)
    columns = [name for name in sheets[0].columns if name != id_column]
    members = []
    for sheet in sheets:
        try:
            member = np.array([sheet.column(column) for column in columns], dtype=np.float32).T
        except ValueError as error:
            message = f"holds something else than probabilities: {error}"
            raise UserError(message, file=sheet.path, hint="--vote combines labels") from None
        if not ((member >= 0) & (member <= 1)).all():  # False for NaN too
            raise UserError("holds values that are no probabilities", file=sheet.path, hint="--vote combines labels")
        members.append(member)
    write_probabilities(output, sheets[0], id_column, columns, _average(members, way))
    print(f"written: {output} (the {way} of {len(files)} files)")


def _same_rows(files: Sequence[Path]) -> tuple[list[Sheet], str]:
    """Submissions of the same columns and ids, in the same order, and the name of the column of ids.

    It is the first column that has no value twice and is the same in all files.
    """
    sheets = [read_csv(path) for path in files]
    first = sheets[0]
    for sheet in sheets[1:]:
        if sheet.columns != first.columns:
            raise UserError(f"has the columns {sheet.columns}, {files[0]} has {first.columns}", file=sheet.path)
    unique = [name for name in first.columns if len(set(first.column(name))) == len(first.rows)] or first.columns[:1]
    for name in unique:
        if all(sheet.column(name) == first.column(name) for sheet in sheets):
            return sheets, name
    strange = next(sheet for sheet in sheets if sheet.column(unique[0]) != first.column(unique[0]))
    raise UserError(f"has other ids than {files[0]}, or another order", file=strange.path)

"""Submissions from what was predicted before: other weights or another threshold in seconds; votes and means."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from foldsmith.data.sheets import Sheet, csv_line, read_csv
from foldsmith.data.tables import find_separator
from foldsmith.ensemble.file import Ensemble, blend
from foldsmith.errors import UserError
from foldsmith.files import write_text
from foldsmith.inference.predictions import load_predictions, read_form
from foldsmith.metrics import Probabilities, decide


def submit_predictions(ensemble: Ensemble, folder: Path, output: Path, threshold: float | None) -> None:
    """A submission from each member's saved predictions, by the ensemble file's weights and threshold.

    Args:
        folder: of --keep-predictions.
        threshold: instead of the ensemble's.
    """
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
        vote(files, output)
        return
    kinds = {path.suffix for path in files}
    if kinds == {".npy"}:
        _submit(_average(_load(files), way), files[0].parent, output, ensemble, threshold)
    elif kinds == {".csv"}:
        _average_csv(files, way, output)
    else:
        raise UserError(f"{', '.join(map(str, files))}: all are .npy or all are .csv", key=f"--{way}")


def vote(files: Sequence[Path], output: Path) -> None:
    """The labels that more than half of the submissions have; where all have one label an image, the most frequent.

    Of equally frequent ones that of the file that is named first wins.
    """
    sheets = _same_rows(files)
    if any(len(sheet.columns) != 2 for sheet in sheets):
        raise UserError("a vote needs submissions of two columns, id and labels", key="--vote")
    separator = find_separator([row[1] for sheet in sheets for row in sheet.rows])
    single = all(row[1] and separator not in row[1].strip() for sheet in sheets for row in sheet.rows)
    lines = [sheets[0].columns]
    for rows in zip(*(sheet.rows for sheet in sheets), strict=True):
        labels = [row[1].split(separator) if row[1] else [] for row in rows]
        counts = Counter(label for each in labels for label in dict.fromkeys(each))
        if single:
            chosen = [counts.most_common(1)[0][0]]
        else:
            chosen = [label for label, count in counts.items() if 2 * count > len(files)]
        lines.append([rows[0][0], separator.join(chosen)])
    write_text(output, "".join(csv_line(line) for line in lines))
    print(f"written: {output} (a vote of {len(files)} submissions)")


def _load(files: Sequence[Path]) -> list[Probabilities]:
    """Predictions that lie in one form: beside each file there is the same predictions.json."""
    forms = {path.parent: read_form(path.parent, Path()).submission for path in files}
    first, *others = forms.values()
    for folder, form in zip(list(forms)[1:], others, strict=True):
        if form.tokens != first.tokens or form.sample.rows != first.sample.rows:
            raise UserError(f"has other images or classes than {files[0].parent}", file=folder)
    return [load_predictions(path, (len(first.sample.rows), len(first.tokens))) for path in files]


def _submit(
    probabilities: Probabilities, folder: Path, output: Path, ensemble: Ensemble | None, threshold: float | None
) -> None:
    if ensemble is None and threshold is None:
        raise UserError("the threshold is missing", key="--threshold", hint="name it, or the ensemble file")
    chosen = threshold if threshold is not None or ensemble is None else ensemble.threshold
    limits = (ensemble.min_labels, ensemble.max_labels) if ensemble else (0, None)
    form = read_form(folder, output)
    what = form.submission.write(probabilities, decide(probabilities, chosen, *limits), form.prior, form.bad)
    print(f"written: {output} ({len(probabilities)} images, {what})")


def _average(members: Sequence[Probabilities], way: str) -> Probabilities:
    if way == "mean":
        return blend(members, [1.0] * len(members))
    logs = [np.log(np.maximum(member, np.float32(1e-12))) for member in members]
    return np.exp(blend(logs, [1.0] * len(members)))


def _average_csv(files: Sequence[Path], way: str, output: Path) -> None:
    sheets = _same_rows(files)
    try:
        members = [np.array([row[1:] for row in sheet.rows], dtype=np.float32) for sheet in sheets]
    except ValueError as error:
        raise UserError(
            f"holds something else than probabilities: {error}", file=files[0], hint="--vote combines labels"
        ) from None
    for sheet, member in zip(sheets, members, strict=True):
        if not ((member >= 0) & (member <= 1)).all():  # False for NaN too
            raise UserError("holds values that are no probabilities", file=sheet.path, hint="--vote combines labels")
    texts = _average(members, way).astype(str)
    lines = [[row[0], *values] for row, values in zip(sheets[0].rows, texts, strict=True)]
    write_text(output, "".join(csv_line(line) for line in [sheets[0].columns, *lines]))
    print(f"written: {output} (the {way} of {len(files)} files)")


def _same_rows(files: Sequence[Path]) -> list[Sheet]:
    """Submissions of the same columns and ids, in the same order."""
    sheets = [read_csv(path) for path in files]
    for sheet in sheets[1:]:
        if sheet.columns != sheets[0].columns:
            raise UserError(f"has the columns {sheet.columns}, {files[0]} has {sheets[0].columns}", file=sheet.path)
        if [row[0] for row in sheet.rows] != [row[0] for row in sheets[0].rows]:
            raise UserError(f"has other ids than {files[0]}, or another order", file=sheet.path)
    return sheets

"""`foldsmith pseudo-label`: a table for data.train_csv in which confident predictions count as labels.

From OOF predictions: labels that training images lack. From predictions of the test images: more rows. Validation goes
by the original table all the same (data/pseudo.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldsmith.config import Config, load_config
from foldsmith.data.oof_files import check_range, map_array
from foldsmith.data.sheets import PSEUDO, Sheet, csv_line, id_column, label_column, read_csv, read_label_csv
from foldsmith.data.tables import (
    Table,
    class_columns,
    encode_labels,
    label_words,
    read_sample,
    read_table,
    valid_csv_path,
)
from foldsmith.ensemble.members import load_members
from foldsmith.errors import UserError
from foldsmith.files import write_text
from foldsmith.metrics import Probabilities, Targets, above, top_class


@dataclass(frozen=True)
class Added:
    """Labels to add: bool (ids, classes), with a True in every row."""

    ids: list[str]
    labels: Targets


def pseudo_label(
    config: Config | None, *, oof: Sequence[Path], test: Path | None, threshold: float | None, output: Path
) -> None:
    """Write the original table with pseudo labels and a column `pseudo`, 1 where a row has any; say what was added.

    Args:
        config: the experiment; None: the one beside the OOF files.
        oof: an OOF file of each model (the other folds lie beside it); labels whose mean probability exceeds the
            threshold are added to the images that lack them.
        test: predictions of the test images: an .npy (rows of the sample submission, classes), or a submission.
        output: the csv to write; replaced only where it is such a table.
    """
    if not oof and test is None:
        raise UserError("nothing to label by", hint="name --oof, --test, or both")
    if threshold is not None and not 0 <= threshold < 1:
        raise UserError(f"{threshold} is not a probability below 1", key="--threshold")
    if oof and config is not None:
        raise UserError("with --oof it is the config beside the OOF files", key="--config", hint="leave it out")
    if config is None:
        config = _config_beside(oof)
    _check_output(output)
    table = read_table(config)
    lines = []
    more_labels, more_rows = None, None
    if oof:
        more_labels = _from_oof(oof, config, table, threshold)
        lines.append(_summary(more_labels, f"of {len(table)} training images"))
    if test is not None:
        more_rows, images = _from_test(test, config, table, threshold)
        lines.append(_summary(more_rows, f"of {images} test images"))
    _write(output, config, table, more_labels, more_rows)
    valid = valid_csv_path(config)
    usual = valid.resolve() == (Path(config.data.root) / "train.csv").resolve()
    named = f"data.train_csv: {output}" + ("" if usual else f" and data.valid_csv: {valid}")
    print("\n".join([f"written: {output}", *lines, f"to train on it: {named}"]))


def _config_beside(oof: Sequence[Path]) -> Config:
    if not oof:
        raise UserError("--test needs the experiment", key="--config", hint="name a config, or --oof as well")
    name = oof[0].stem.rpartition("_f")[0]
    path = oof[0].parent / f"{name}.yml"
    if not path.is_file():
        raise UserError("not found; it lies beside the OOF files", file=path, key="--oof")
    return load_config(path)


def _check_output(output: Path) -> None:
    """Tables that someone else wrote are never replaced: not the original one, nor any other."""
    if not output.exists():
        return
    if not output.is_file() or PSEUDO not in read_csv(output, max_rows=0).columns:
        raise UserError(
            f"exists and is no table of pseudo labels (it has no column {PSEUDO!r})", file=output, key="--output"
        )


def _from_oof(oof: Sequence[Path], config: Config, table: Table, threshold: float | None) -> Added:
    if config.data.task == "multiclass":
        raise UserError(
            "every image of a multiclass task has its one label already", key="--oof", hint="--test labels test images"
        )
    members = load_members(oof).members
    mean = np.asarray(np.mean([member.probabilities for member in members], axis=0), dtype=np.float32)
    lacking = ~table.targets()
    labels = above(mean, _required(threshold)) & lacking
    if not labels.any():
        raise _adds_nothing(threshold, mean.max(where=lacking, initial=np.float32(0)), "a label that an image lacks")
    rows = np.flatnonzero(labels.any(axis=1))
    return Added([table.ids[row] for row in rows], labels[rows])


def _from_test(test: Path, config: Config, table: Table, threshold: float | None) -> tuple[Added, int]:
    """The labels of the test images that get any, and the number of test images."""
    if test.suffix == ".npy":
        sample, column = read_sample(config)
        shape = (len(sample.rows), len(table.classes.tokens))
        labels = _confident(map_array(test, shape, f"{sample.path} with the class list"), test, config, threshold)
    else:  # a submission is a sample submission with values in it
        data = config.data.model_copy(update={"sample_submission": str(test)})
        sample, column = read_sample(config.model_copy(update={"data": data}))
        of_class = class_columns(config, sample, column, table.classes.tokens)
        if of_class is not None:
            labels = _confident(_read_columns(sample, of_class), test, config, threshold)
        elif threshold is not None:
            raise UserError(f"{test} holds labels, not probabilities", key="--threshold", hint="leave it out")
        else:
            labels = _read_labels(sample, column, config, table)
    ids, known = sample.column(column), set(table.ids)
    for name, line in zip(ids, sample.lines, strict=True):
        if name in known:
            raise UserError(
                f"{name!r} is the id of a training image too, and images are found by their ids",
                file=sample.path,
                line=line,
                key="--test",
            )
    rows = np.flatnonzero(labels.any(axis=1))
    return Added([ids[row] for row in rows], labels[rows]), len(ids)


def _confident(probabilities: Probabilities, path: Path, config: Config, threshold: float | None) -> Targets:
    """Labels above the threshold; in a multiclass task no others than the most probable one."""
    check_range(probabilities, path)
    labels = above(probabilities, _required(threshold))
    if config.data.task == "multiclass":
        labels &= top_class(probabilities)
    if not labels.any():
        raise _adds_nothing(threshold, probabilities.max(), "a test image's label")
    return labels


def _read_columns(sheet: Sheet, columns: Sequence[str]) -> Probabilities:
    """The columns of the classes as float32 (rows, classes)."""
    positions = [sheet.columns.index(column) for column in columns]
    values = np.empty((len(sheet.rows), len(columns)), dtype=np.float32)
    for row, (fields, line) in enumerate(zip(sheet.rows, sheet.lines, strict=True)):
        try:
            values[row] = [float(fields[position]) for position in positions]
        except ValueError as error:
            raise UserError(f"{error}", file=sheet.path, line=line, key="--test") from None
    return values


def _read_labels(sheet: Sheet, column: str, config: Config, table: Table) -> Targets:
    """The labels that a submission gives its images: they passed a threshold already."""
    (other,) = (name for name in sheet.columns if name != column)
    data = config.data.model_copy(update={"id_column": column, "label_column": other})
    words = label_words(sheet, config.model_copy(update={"data": data}), table.separator)
    index = {token: position for position, token in enumerate(table.classes.tokens)}
    ids = sheet.column(column)
    starts, indices = encode_labels(sheet, ids, words, index, "")
    if not len(indices):
        raise UserError("gives no image a label", file=sheet.path, key="--test")
    return Table(ids, starts, indices, table.classes).targets()


def _required(threshold: float | None) -> float:
    if threshold is None:
        raise UserError("is missing", key="--threshold", hint="labels of a probability above it are taken, such as 0.7")
    return threshold


def _adds_nothing(threshold: float | None, largest: np.float32, what: str) -> UserError:
    return UserError(
        f"{threshold} adds nothing: the largest probability of {what} is {largest!s}",
        key="--threshold",
        hint=f"a threshold below {largest!s} adds labels",
    )


def _summary(added: Added, of: str) -> str:
    return f"{np.count_nonzero(added.labels)} labels added to {len(added.ids)} {of}"


def _write(output: Path, config: Config, table: Table, more_labels: Added | None, more_rows: Added | None) -> None:
    sheet = read_label_csv(valid_csv_path(config), config)
    ids, labels = sheet.columns.index(id_column(sheet, config)), sheet.columns.index(label_column(sheet, config))
    lines = [csv_line([*sheet.columns, PSEUDO])]
    new = _texts(more_labels, table)
    for fields in sheet.rows:
        text = new.get(fields[ids], "")
        joined = table.separator.join(part for part in (fields[labels].strip(), text) if part)
        row = [*fields[:labels], joined if text else fields[labels], *fields[labels + 1 :]]
        lines.append(csv_line([*row, "1" if text else "0"]))
    for name, text in _texts(more_rows, table).items():
        row = [""] * len(sheet.columns)
        row[ids], row[labels] = name, text
        lines.append(csv_line([*row, "1"]))
    write_text(output, "".join(lines))


def _texts(added: Added | None, table: Table) -> dict[str, str]:
    """The labels to add to each image, as the table writes them."""
    if added is None:
        return {}
    tokens = table.classes.tokens
    return {
        name: table.separator.join(tokens[int(index)] for index in np.flatnonzero(row))
        for name, row in zip(added.ids, added.labels, strict=True)
    }

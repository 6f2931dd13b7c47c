"""Where a new competition's files are: tables, columns and folders of images, whatever they are called."""

import os
from collections import Counter
from pathlib import Path
from typing import Any

from foldsmith.data.images import EXTENSIONS
from foldsmith.data.sheets import LABEL_COLUMNS, Sheet, read_csv, zero_one_columns
from foldsmith.data.tables import find_separator
from foldsmith.errors import UserError

ROWS = 2000  # of a table by which columns are found


def find_files(root: Path) -> dict[str, Any]:
    """The data section's keys for the files below a folder; what lies in its usual place is not named."""
    folders = _image_folders(root)
    tables = sorted(path for path in root.glob("*.csv") if path.is_file())
    if not tables or not folders:
        what = "label table (.csv)" if not tables else "folder of images"
        raise UserError(f"holds no {what}", file=root, hint="train.csv, sample_submission.csv, train/ and test/")
    samples = [path for path in tables if "sample" in path.name.lower()]
    found = _label_table([path for path in tables if path not in samples], folders)
    if found is None:
        names = ", ".join(path.name for path in tables)
        raise UserError(f"no column of {names} names the images", file=root, hint="name the files in a config instead")
    sheet, id_column, train_dir = found
    section: dict[str, Any] = {"root": str(root), "id_column": id_column}
    section |= _labels(sheet, id_column)
    section["image_extension"] = Counter(path.suffix for path in images_in(train_dir)).most_common(1)[0][0]
    if section["image_extension"] != section["image_extension"].lower():
        section["image_extension"] = section["image_extension"].lower()
    if any(text.lower().endswith(EXTENSIONS) for text in sheet.column(id_column)[:1]):
        del section["image_extension"]
    others = [path for path in tables if path not in (*samples, sheet.path)]
    test_dir = _test_dir(samples, folders, train_dir)
    if test_dir is not None and not any(
        path.suffix.lower() == section.get("image_extension") for path in images_in(test_dir)
    ):
        section.pop("image_extension", None)  # of the training images alone: each folder's is found by itself
    for key, path, usual in (
        ("train_csv", sheet.path, "train.csv"),
        ("train_dir", train_dir, "train"),
        ("sample_submission", samples[0] if samples else None, "sample_submission.csv"),
        ("test_dir", test_dir, "test"),
        ("labels_csv", _class_list(sheet, section, others), "labels.csv"),
    ):
        if path is not None and path != root / usual:
            section[key] = str(path)
    return section


def _image_folders(root: Path) -> list[Path]:
    """Folders that hold images, at most three levels down."""
    found = []
    for depth in ("", "*", "*/*", "*/*/*"):
        found += [path for path in sorted(root.glob(depth) if depth else [root]) if path.is_dir() and images_in(path)]
    return list(dict.fromkeys(found))


def images_in(folder: Path) -> list[Path]:
    """The image files of a folder, in no order."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(EXTENSIONS)]
    return [folder / name for name in names]


def _label_table(tables: list[Path], folders: list[Path]) -> tuple[Sheet, str, Path] | None:
    """The table, its id column and the folder of images that fit each other best."""
    best: tuple[float, Sheet, str, Path] | None = None
    names = {folder: {name for path in images_in(folder) for name in (path.name, path.stem)} for folder in folders}
    for path in tables:
        sheet = read_csv(path, ROWS)
        if len(sheet.columns) < 2 or not sheet.rows:
            continue
        for column in sheet.columns:
            for folder, known in names.items():
                share = sum(text in known for text in sheet.column(column)) / len(sheet.rows)
                if share > 0.5 and (best is None or share > best[0]):
                    best = (share, sheet, column, folder)
    return None if best is None else best[1:]


def _labels(sheet: Sheet, id_column: str) -> dict[str, Any]:
    """Label column, separator and task, by the first rows."""
    others = [column for column in sheet.columns if column != id_column]
    classes = zero_one_columns(sheet, others)
    if len(classes) > 1:
        rows = zip(*(sheet.column(each) for each in classes), strict=True)
        task = "multiclass" if all(sum(map(float, row)) == 1 for row in rows) else "multilabel"
        return {"task": task} if classes == others else {"task": task, "label_column": classes}
    usual = [column for column in others if column.lower() in LABEL_COLUMNS]
    column = usual[0] if usual else min(others, key=lambda each: len(set(sheet.column(each))))
    texts = sheet.column(column)
    separator = find_separator(texts)
    labels = [[word for word in text.split(separator) if word.strip()] for text in texts]
    if all(len(words) == 1 for words in labels):
        return {"task": "multiclass", "label_column": column}
    return {"task": "multilabel", "label_column": column, "label_separator": separator}


def _class_list(sheet: Sheet, section: dict[str, Any], tables: list[Path]) -> Path | None:
    """The table whose first column, or second, holds every label of the first rows."""
    column, mark = section.get("label_column"), section.get("label_separator")
    if isinstance(column, str):
        texts = sheet.column(column)
        used = {word.strip() for text in texts for word in (text.split(mark) if mark else [text]) if word.strip()}
    else:  # a column a class
        used = set(column or sheet.columns) - {section["id_column"]}
    for path in tables:
        known = read_csv(path)
        if any(used <= {row[column] for row in known.rows} for column in range(min(2, len(known.columns)))):
            return path
    return None


def _test_dir(samples: list[Path], folders: list[Path], train_dir: Path) -> Path | None:
    """The folder that holds most ids of sample_submission.csv; without one, a folder that is called a test's."""
    if not samples:
        others = [folder for folder in folders if folder != train_dir and "test" in folder.name.lower()]
        return others[0] if others else None
    sheet = read_csv(samples[0], ROWS)
    ids = sheet.column(sheet.columns[0])
    shares = {}
    for folder in folders:
        known = {name for path in images_in(folder) for name in (path.name, path.stem)}
        shares[folder] = sum(name in known for name in ids)
    best = max(shares, key=lambda folder: shares[folder])
    return best if shares[best] else None

"""Where a new competition's files are: tables, columns and folders of images, whatever they are called."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldsmith.data.images import EXTENSIONS
from foldsmith.data.label_columns import LOOKS, find_labels, label_like
from foldsmith.data.sheets import Sheet, read_csv
from foldsmith.errors import UserError

ROWS = 2000  # of a table by which columns are found
NAMES = "train.csv, sample_submission.csv, train/ and test/"


@dataclass(frozen=True)
class Layout:
    """The data section's keys for the files below a folder, and what about them is a guess."""

    section: dict[str, Any]
    warnings: list[str]
    tables: list[Path]  # of the competition: without what `foldsmith check-data --groups` wrote beside them


def find_files(root: Path) -> Layout:
    """The tables, columns and folders of a competition; what lies in its usual place is not named."""
    folders = _image_folders(root)
    tables = sorted(path for path in root.iterdir() if path.suffix.lower() in (".csv", ".tsv") and path.is_file())
    samples = sorted((path for path in tables if _is_sample(path)), key=lambda path: "sample" not in path.name.lower())
    others = [path for path in tables if path not in samples]
    if not others:
        raise UserError("holds no label table (.csv, .tsv)", file=root, hint=_where_tables_are(root))
    if not folders:
        raise UserError("holds no folder of images", file=root, hint=NAMES)
    names = _names_below(root, folders)
    found = _label_table(others, names)
    if found is None:
        raise UserError(f"no column of {_listed(others)} names the images", file=root, hint=_first_of(others, folders))
    path, id_column, train_dir = found
    sheet, sample = read_csv(path), read_csv(samples[0], ROWS) if samples else None
    test_dir = _test_dir(sample, names, folders, train_dir)
    labels, warnings = find_labels(sheet, id_column, sample)
    section: dict[str, Any] = {"root": str(root), "id_column": id_column} | labels
    section |= _extension(sheet.column(id_column), train_dir, sample, test_dir)
    for key, place, usual in (
        ("train_csv", sheet.path, "train.csv"),
        ("train_dir", train_dir, "train"),
        ("sample_submission", sample and sample.path, "sample_submission.csv"),
        ("test_dir", test_dir, "test"),
        ("labels_csv", _class_list(sheet, section, [each for each in others if each != path]), "labels.csv"),
    ):
        if place is not None and place != root / usual:
            section[key] = str(place)
    if test_dir == train_dir:
        warnings.append(f"{train_dir} holds training and test images; sample_submission.csv says which are the test's")
    if len(samples) > 1:
        warnings.append(f"{samples[0].name} is taken as the sample submission; also possible: {_listed(samples[1:])}")
    own = [each for each in tables if each == path or not set(LOOKS) & set(read_csv(each, 0).columns)]
    return Layout(section, warnings, own)


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _where_tables_are(root: Path) -> str:
    """The hint where a folder itself holds no table."""
    below = sorted(path for depth in ("*/", "*/*/") for path in root.glob(f"{depth}*.[ct]sv"))
    if below:
        return f"there is {below[0]}: name its folder as --root, or the table in a config's data.train_csv"
    return f"expected {NAMES} or the like; images in a folder a class need a table of ids and labels first"


def _first_of(tables: list[Path], folders: list[Path]) -> str:
    """The hint where ids and images do not agree: one of each."""
    rows = read_csv(tables[0], 1).rows
    first = f"the first row of {tables[0].name} is {rows[0]}" if rows else f"{tables[0].name} has no rows"
    return f"{first}; an image is {min(images_in(folders[0]))}; an id is its name, with or without extension"


def _is_sample(path: Path) -> bool:
    return any(word in path.name.lower() for word in ("sample", "submission"))


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


def _names_below(root: Path, folders: list[Path]) -> dict[Path, set[str]]:
    """How ids may call the images from each folder: with and without extension; `train/a.jpg` from the root."""
    names: dict[Path, set[str]] = {folder: set() for folder in folders}
    for folder in folders:
        for path in images_in(folder):
            for above in (folder, *folder.parents):
                name = path.relative_to(above).as_posix()
                names.setdefault(above, set()).update((name, name.removesuffix(path.suffix)))
                if above == root:
                    break
    return names


def _label_table(tables: list[Path], names: dict[Path, set[str]]) -> tuple[Path, str, Path] | None:
    """The table, its id column and the folder of images that fit each other best."""
    best: tuple[tuple[Any, ...], Path, str, Path] | None = None
    for path in tables:
        sheet = read_csv(path, ROWS)
        if len(sheet.columns) < 2 or not sheet.rows:
            continue
        for column in sheet.columns:
            texts = sheet.column(column)
            for folder, known in names.items():
                share = sum(text in known for text in texts) / len(texts)
                rank = (min(0, _is_train(folder)), round(share, 1), *_rank(sheet), share, _is_train(folder))
                if share > 0.5 and (best is None or rank > best[0]):
                    best = (rank, path, column, folder)
    return None if best is None else best[1:]


def _is_train(path: Path) -> int:
    """1: called like the training set's, -1: like a test set's; else 0."""
    name = path.name.lower()
    return 1 if name.startswith("train") else -1 if name.startswith(("test", "valid")) else 0


def _rank(sheet: Sheet) -> tuple[int, bool, bool, int]:
    """Of tables that name images equally well, the one with the highest rank holds the labels."""
    labelled = any(label_like(column) for column in sheet.columns)
    return _is_train(sheet.path), not set(LOOKS) & set(sheet.columns), labelled, len(sheet.rows)


def _extension(ids: list[str], train_dir: Path, sample: Sheet | None, test_dir: Path | None) -> dict[str, str]:
    """data.image_extension where one extension makes a file of every id; else each image's is found by itself."""
    if any(name.lower().endswith(EXTENSIONS) for name in ids):
        return {}
    groups = [(ids, train_dir)]
    if test_dir is not None:
        tests = None if sample is None else sample.column(sample.columns[0])
        groups.append((tests or [path.stem for path in images_in(test_dir)], test_dir))
    known = Counter(path.suffix.lower() for path in images_in(train_dir))
    if not known:  # ids with folders in front
        return {}
    extension = known.most_common(1)[0][0]
    for wanted, folder in groups:
        there = {path.stem for path in images_in(folder) if path.suffix.lower() == extension}
        elsewhere = {path.stem for path in images_in(folder)} - there
        if elsewhere & set(wanted) or not there:
            return {}
    return {"image_extension": extension}


def _class_list(sheet: Sheet, section: dict[str, Any], tables: list[Path]) -> Path | None:
    """The table whose first column, or second, holds every label."""
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


def _test_dir(sample: Sheet | None, names: dict[Path, set[str]], folders: list[Path], train_dir: Path) -> Path | None:
    """The folder that holds most ids of sample_submission.csv; without one, a folder that is called a test's."""
    if sample is None:
        others = [folder for folder in folders if folder != train_dir and "test" in folder.name.lower()]
        return others[0] if others else None
    ids = sample.column(sample.columns[0])
    shares = {folder: sum(name in known for name in ids) for folder, known in names.items()}
    best = max(shares, key=lambda folder: (shares[folder], folder != train_dir))
    return best if shares[best] else None

"""The older layout: level1_train_<model>_f<k>_e<epoch>_<score>.npy, each fold's probabilities minus its threshold.

Beside them lie folds.npy (the fold of every row of train.csv) and train.csv (an id, numbers of classes). A blend of
such values is positive where the published program predicts a label; here its threshold is searched like any other.
Its ensemble files are lists of `predicts: [files of a model]` and `weight`.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import parse_yaml
from foldsmith.data.tables import read_csv
from foldsmith.ensemble.members import OofData, OofMember
from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.files import sha256_lines
from foldsmith.metrics import Targets

_NAME = re.compile(r"(?P<stem>(?:level1_train_)?(?P<name>.+))_f(?P<fold>\d+)_e\d+.*\.npy")


def is_older_name(path: Path) -> bool:
    """Whether a file is named like one of the older layout."""
    return _NAME.fullmatch(path.name) is not None


def load_older_members(given: Sequence[Path], folds: Path, train_csv: Path) -> OofData:
    """Find the models of which one file each is named; the other folds are found beside it.

    Raises:
        UserError: a fold has no file or two, or shapes do not fit; names them.
    """
    fold_of = _read_folds(folds)
    rows = [np.flatnonzero(fold_of == fold) for fold in range(fold_of.max() + 1)]
    models: list[tuple[str, list[Path]]] = []
    for path in given:
        name, files = _folds_of(path, len(rows))
        if any(known == name and of_known != files for known, of_known in models):
            raise UserError(f"two models are called {name!r}", file=path, hint="rename the files of one")
        if (name, files) not in models:
            models.append((name, files))
    if not models:
        raise UserError("name at least one OOF file", hint="ensemble_search.py NAME OOF.npy ...")
    classes = _width(models[0][1][0])
    targets = _read_targets(train_csv, len(fold_of), classes)
    members = [OofMember(name, files, rows, classes, [], lowest=-1.0) for name, files in models]
    for member in members:
        for fold in range(len(rows)):
            member.map(fold)  # shapes
    tokens = [str(number) for number in range(classes)]
    names = _read_names(train_csv.parent / "labels.csv", tokens)
    return OofData(members, targets, fold_of, tokens, names, sha256_lines(tokens), "multilabel", "f2")


def _folds_of(path: Path, count: int) -> tuple[str, list[Path]]:
    """A model's name and its files, a fold each."""
    match = _NAME.fullmatch(path.name)
    if match is None:
        raise UserError("is not named like level1_train_<model>_f<fold>_e<epoch>_<score>.npy", file=path)
    if not path.is_file():
        raise UserError("OOF file not found", file=path)
    found: list[list[Path]] = [[] for _ in range(count)]
    for other in sorted(path.parent.iterdir()):
        same = _NAME.fullmatch(other.name)
        if same and same["stem"] == match["stem"]:
            if int(same["fold"]) >= count:
                raise UserError(f"is of fold {same['fold']}, the split has folds 0..{count - 1}", file=other)
            found[int(same["fold"])].append(other)
    for fold, files in enumerate(found):
        if len(files) > 1:
            names = " and ".join(str(file) for file in files)
            raise UserError(f"two candidates for fold {fold} of {match['name']!r}: {names}", hint="move one away")
        if not files:
            raise UserError(f"fold {fold} of {match['name']!r} is missing beside it", file=path)
    return match["name"], [files[0] for files in found]


def _read_folds(path: Path) -> NDArray[np.int64]:
    try:
        folds = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"cannot be read: {error}", file=path, key="--folds") from None
    if folds.ndim != 1 or folds.dtype.kind not in "iu" or not len(folds) or folds.min() < 0:
        raise UserError(f"holds {folds.dtype} {folds.shape}, not a fold of each row", file=path, key="--folds")
    empty = np.flatnonzero(np.bincount(folds) == 0)
    if len(empty) or folds.max() == 0:
        raise UserError(f"no row is in fold {empty[0] if len(empty) else 1}", file=path, key="--folds")
    return folds.astype(np.int64)


def _width(path: Path) -> int:
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"is not a readable .npy file: {error}", file=path, code=EXIT_UNTRUSTED) from None
    if len(shape) != 2:
        raise UserError(f"holds {shape}, not (images, classes)", file=path, code=EXIT_UNTRUSTED)
    return int(shape[1])


def _read_targets(path: Path, images: int, classes: int) -> Targets:
    """Labels of train.csv, bool (images, classes). Its last column holds numbers of classes, spaces between them."""
    sheet = read_csv(path)
    if len(sheet.rows) != images:
        raise UserError(f"has {len(sheet.rows)} rows, --folds has {images}", file=path, key="--train-csv")
    column = "attribute_ids" if "attribute_ids" in sheet.columns else sheet.columns[-1]
    targets = np.zeros((images, classes), dtype=np.bool_)
    for row, (text, line) in enumerate(zip(sheet.column(column), sheet.lines, strict=True)):
        for word in text.split():
            if not (word.isdecimal() and int(word) < classes):
                raise UserError(f"{word!r} is not a class number below {classes}", file=path, line=line)
            targets[row, int(word)] = True
    return targets


def _read_names(path: Path, tokens: list[str]) -> list[str]:
    """The classes' names in labels.csv beside train.csv (number, name); without one, the numbers."""
    if not path.is_file():
        return tokens
    sheet = read_csv(path)
    if len(sheet.columns) < 2 or sheet.column(sheet.columns[0]) != tokens:
        raise UserError(f"does not list the classes 0..{len(tokens) - 1} with a name each", file=path)
    return sheet.column(sheet.columns[1])


def read_list_format(path: Path) -> list[tuple[Path, float]]:
    """The first file and the weight of each model in an ensemble file of the older layout.

    Raises:
        UserError: it is not a list of `predicts` and `weight`.
    """
    # Documents are sections of `key: value`: the list becomes one.
    text = path.read_text(encoding="utf-8", errors="replace")
    entries = parse_yaml(f"members:\n{text}", str(path)).values["members"]
    found = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [None]):
        predicts, weight = (entry.get("predicts"), entry.get("weight")) if isinstance(entry, dict) else ([], None)
        named = isinstance(predicts, list) and predicts and all(isinstance(name, str) for name in predicts)
        if (
            not isinstance(predicts, list)
            or not named
            or isinstance(weight, bool)
            or not isinstance(weight, int | float)
            or not weight >= 0
        ):
            hint = "each entry has `predicts: [a file a fold]` and `weight:`, a number not below 0"
            raise UserError(f"entry {number} is not of the older list format", file=path, hint=hint)
        found.append((path.parent / predicts[0], float(weight)))
    return found

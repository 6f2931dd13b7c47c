"""What the search reads: the OOF predictions of every member, proved to be of the same images, classes and folds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import load_config
from foldsmith.data.folds import folds_sha256, read_folds_csv
from foldsmith.data.oof_files import Sidecar, read_oof, read_sidecar
from foldsmith.data.tables import Table, read_table
from foldsmith.errors import UserError
from foldsmith.files import sha256_lines
from foldsmith.metrics import Probabilities, Targets


@dataclass(frozen=True)
class OofMember:
    """One model's OOF predictions, its folds put together in the order of the label table."""

    name: str
    probabilities: Probabilities  # (images, classes)
    files: list[Path]  # a fold each
    sidecars: list[Sidecar]


@dataclass(frozen=True)
class OofData:
    """All members and the truth; rows are the label table's."""

    members: list[OofMember]
    targets: Targets
    fold_of: NDArray[np.int64]
    classes: list[str]  # tokens
    classes_sha256: str
    metric: str


def load_members(given: Sequence[Path]) -> OofData:
    """Read the models of which one OOF file each is named; the other folds are found beside it.

    Raises:
        UserError: when files are missing or were made of other images, classes or folds; names which.
    """
    models = _group(given)
    (folder, name), *_ = models
    table, fold_of, split = _truth(folder, name)

    members = []
    for folder, name in models:
        files = [folder / f"{name}_f{fold}.npy" for fold in range(fold_of.max() + 1)]
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise UserError(f"folds of {name!r} are missing: {', '.join(missing)}", hint="predict_oof.py writes them")
        sidecars = [read_sidecar(file) for file in files]
        for fold, (file, sidecar) in enumerate(zip(files, sidecars, strict=True)):
            _check(file, sidecar, fold, table, fold_of, split, models[0][0])
            for key in ("views", "config_sha256", "metric"):
                if getattr(sidecar, key) != getattr(sidecars[0], key):
                    what = f"{getattr(sidecar, key)} there, {getattr(sidecars[0], key)} in {files[0].name}"
                    raise UserError(f"has another {key} than fold 0: {what}", file=file, hint="predict all folds again")
        probabilities = np.empty((len(table), len(table.classes.tokens)), dtype=np.float32)
        for fold, (file, sidecar) in enumerate(zip(files, sidecars, strict=True)):
            probabilities[fold_of == fold] = read_oof(file, sidecar)
        members.append(OofMember(name, probabilities, files, sidecars))
    metric = members[0].sidecars[0].metric
    return OofData(members, table.targets(), fold_of, table.classes.tokens, table.classes.sha256, metric)


def _group(given: Sequence[Path]) -> list[tuple[Path, str]]:
    """Folder and model name of each file, each model once, in the order given."""
    models: list[tuple[Path, str]] = []
    for path in given:
        name, mark, fold = path.stem.rpartition("_f")
        if path.suffix != ".npy" or not mark or not fold.isdecimal():
            raise UserError("is not named like an OOF file, <name>_f<fold>.npy", file=path)
        if not path.is_file():
            raise UserError("OOF file not found", file=path)
        same = [folder for folder, known in models if known == name]
        if same and same[0].resolve() != path.parent.resolve():
            raise UserError(
                f"two models are called {name!r}: in {same[0]} and {path.parent}", hint="rename one experiment"
            )
        if not same:
            models.append((path.parent, name))
    if not models:
        raise UserError("name at least one OOF file")
    return models


def _truth(folder: Path, name: str) -> tuple[Table, NDArray[np.int64], str]:
    """Labels and folds of the first model's run: its resolved config and folds.csv lie beside the OOF files."""
    config_file, folds_file = folder / f"{name}.yml", folder / "folds.csv"
    for path in (config_file, folds_file):
        if not path.is_file():
            raise UserError(
                "not found; it lies beside the OOF files", file=path, hint="name the files inside their run"
            )
    config = load_config(config_file)
    table = read_table(config)
    fold_of = read_folds_csv(folds_file, table, config.data.num_folds)
    return table, fold_of, folds_sha256(table.ids, fold_of)


def _check(
    file: Path, sidecar: Sidecar, fold: int, table: Table, fold_of: NDArray[np.int64], split: str, first: Path
) -> None:
    ids = sha256_lines(table.ids[row] for row in np.flatnonzero(fold_of == fold))
    for what, found, expected in (
        ("class list", sidecar.classes_sha256, table.classes.sha256),
        ("split into folds", sidecar.folds_sha256, split),
        ("list of image ids", sidecar.ids_sha256, ids),
        ("fold number", str(sidecar.fold), str(fold)),
    ):
        if found != expected:
            raise UserError(
                f"has another {what} than {first}: {found[:12]} there, {expected[:12]} here",
                file=file,
                hint="models can be blended when data.folds_seed, num_folds and the label table are the same",
            )

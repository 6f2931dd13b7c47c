"""What the search reads: the OOF predictions of every member, proved to be of the same images, classes and folds."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foldsmith.config import load_config
from foldsmith.data.folds import folds_sha256, read_folds_csv
from foldsmith.data.oof_files import Sidecar, check_range, map_array, read_sidecar
from foldsmith.data.tables import Table, read_csv, read_table
from foldsmith.errors import UserError
from foldsmith.files import sha256_file, sha256_lines
from foldsmith.metrics import Probabilities, Targets


@dataclass(frozen=True)
class OofMember:
    """One model's OOF predictions, a file each fold. `rows[k]` are the table rows of `files[k]`, in its order."""

    name: str
    files: list[Path]
    rows: list[NDArray[np.int64]]
    classes: int
    sidecars: list[Sidecar]  # none in the older layout
    lowest: float = 0.0  # of its values: the older layout keeps probabilities minus a threshold

    def map(self, fold: int) -> Probabilities:
        """A fold's values, memory-mapped; their range is not looked at yet."""
        shape = (len(self.rows[fold]), self.classes)
        return map_array(self.files[fold], shape, "its part of the label table")

    def check_array(self, fold: int, found_sha256: str) -> None:
        """Refuse a fold's values that are not those its sidecar tells of, by the hash of their bytes."""
        if self.sidecars:
            self.sidecars[fold].check_array(self.files[fold], found_sha256)

    @cached_property
    def probabilities(self) -> Probabilities:
        """All of them in memory, (images, classes), in the order of the label table."""
        dense = np.empty((sum(map(len, self.rows)), self.classes), dtype=np.float32)
        for fold, (path, rows) in enumerate(zip(self.files, self.rows, strict=True)):
            values = self.map(fold)
            check_range(values, path, self.lowest)
            self.check_array(fold, hashlib.sha256(values.data).hexdigest())
            dense[rows] = values
        return dense

    @property
    def views(self) -> list[str]:
        return self.sidecars[0].views if self.sidecars else ["identity"]


@dataclass(frozen=True)
class OofData:
    """All members and the truth; rows are the label table's."""

    members: list[OofMember]
    targets: Targets
    fold_of: NDArray[np.int64]
    classes: list[str]  # tokens
    names: list[str]  # of the classes, for people
    classes_sha256: str
    task: str
    metric: str


def load_members(given: Sequence[Path]) -> OofData:
    """Find the models of which one OOF file each is named; the other folds are found beside it.

    Raises:
        UserError: when files are missing, or were made of other images, classes, folds or weights; names which.
    """
    models = _group(given)
    first, name = models[0]
    table, fold_of, task = _truth(first, name)
    split = folds_sha256(table.ids, fold_of)
    rows = [np.flatnonzero(fold_of == fold) for fold in range(fold_of.max() + 1)]
    ids = [sha256_lines(table.ids[row] for row in of_fold) for of_fold in rows]

    members = []
    for folder, name in models:
        files = [folder / f"{name}_f{fold}.npy" for fold in range(len(rows))]
        missing = [str(file) for file in files if not file.is_file()]
        if missing:
            raise UserError(f"folds of {name!r} are missing: {', '.join(missing)}", hint="predict_oof.py writes them")
        sidecars = [read_sidecar(file) for file in files]
        for fold, (file, sidecar) in enumerate(zip(files, sidecars, strict=True)):
            _check_same(file, sidecar, (name, fold), table, fold_of, (split, ids[fold]), first)
            _check_weights(file, sidecar)
            for key in ("views", "merge", "config_sha256", "metric"):
                if getattr(sidecar, key) != getattr(sidecars[0], key):
                    what = f"{getattr(sidecar, key)} there, {getattr(sidecars[0], key)} in {files[0].name}"
                    raise UserError(f"has another {key} than fold 0: {what}", file=file, hint="predict all folds again")
            map_array(file, (sidecar.rows, sidecar.classes), "its sidecar")
        _check_folds_csv(folder / "folds.csv", first, table, fold_of)
        members.append(OofMember(name, files, rows, len(table.classes.tokens), sidecars))
    classes, metric = table.classes, members[0].sidecars[0].metric
    return OofData(members, table.targets(), fold_of, classes.tokens, classes.names, classes.sha256, task, metric)


def _group(given: Sequence[Path]) -> list[tuple[Path, str]]:
    """Folder and model name of each file, each model once, in the order given."""
    models: list[tuple[Path, str]] = []
    for path in given:
        name, mark, fold = path.stem.rpartition("_f")
        if path.suffix != ".npy" or not mark or not fold.isdecimal():
            hint = "files of the older layout, level1_train_*_f0_e*.npy, need --folds and --train-csv"
            raise UserError("is not named like an OOF file, <name>_f<fold>.npy", file=path, hint=hint)
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
        raise UserError("name at least one OOF file", hint="ensemble_search.py NAME OOF.npy ...")
    return models


def _truth(folder: Path, name: str) -> tuple[Table, NDArray[np.int64], str]:
    """Labels, folds and task of the first model's run: its config and folds.csv lie beside the OOF files."""
    config_file, folds_file = folder / f"{name}.yml", folder / "folds.csv"
    for path in (config_file, folds_file):
        if not path.is_file():
            raise UserError(
                "not found; it lies beside the OOF files", file=path, hint="name the files inside their run"
            )
    config = load_config(config_file)
    table = read_table(config)
    return table, read_folds_csv(folds_file, table, config.data.num_folds), config.data.task


def _check_same(
    file: Path,
    sidecar: Sidecar,
    member: tuple[str, int],  # name and fold that the file's own name tells of
    table: Table,
    fold_of: NDArray[np.int64],
    expected_sha256: tuple[str, str],
    first: Path,
) -> None:
    """Refuse a file whose sidecar tells of other images, classes or folds than the first member's run."""
    (name, fold), (split, ids) = member, expected_sha256
    if (sidecar.name, sidecar.fold) != (name, fold):
        what = f"fold {sidecar.fold} of {sidecar.name!r} there, fold {fold} of {name!r} by the file's name"
        raise UserError(f"its sidecar tells of another file: {what}", file=file, hint="predict_oof.py writes both")
    for what, found, expected in (
        ("class list", sidecar.classes_sha256, table.classes.sha256),
        ("split into folds", sidecar.folds_sha256, split),
        ("list of image ids", sidecar.ids_sha256, ids),
    ):
        if found != expected:
            differs = "" if what == "class list" else _first_difference(file, table, fold_of)
            raise UserError(
                f"has another {what} than {first}: {found[:12]} there, {expected[:12]} here{differs}",
                file=file,
                hint="models can be blended when data.folds_seed, num_folds and the label table are the same",
            )


def _check_folds_csv(path: Path, first: Path, table: Table, fold_of: NDArray[np.int64]) -> None:
    """Refuse a folds.csv that was changed: the predictions beside it are of the first member's split."""
    if not path.is_file() or path.read_bytes() == (first / "folds.csv").read_bytes():
        return
    theirs = folds_sha256(table.ids, read_folds_csv(path, table, int(fold_of.max()) + 1))
    ours = folds_sha256(table.ids, fold_of)
    if theirs != ours:
        differs = _first_difference(path, table, fold_of)
        what = f"was changed after the predictions: {theirs[:12]} there, {ours[:12]} in {first}{differs}"
        raise UserError(what, file=path, hint="folds.csv of a run stays as training wrote it")


def _first_difference(file: Path, table: Table, fold_of: NDArray[np.int64]) -> str:
    """The first id that stands in another place or fold in folds.csv beside a file; empty where there is none."""
    path = file.parent / "folds.csv"
    if not path.is_file():
        return ""
    sheet = read_csv(path)
    if not {"id", "fold"} <= set(sheet.columns):
        return ""
    theirs = list(zip(sheet.column("id"), sheet.column("fold"), strict=True))
    ours = [(name, str(fold)) for name, fold in zip(table.ids, fold_of, strict=True)]
    for (their_id, their_fold), (our_id, our_fold) in zip(theirs, ours, strict=False):
        if their_id != our_id:
            return f"; the first id that differs: {their_id!r} there, {our_id!r} here"
        if their_fold != our_fold:
            return f"; the first id that differs: {their_id!r} is in fold {their_fold} there, {our_fold} here"
    return f"; {len(theirs)} ids there, {len(ours)} here" if len(theirs) != len(ours) else ""


def _check_weights(file: Path, sidecar: Sidecar) -> None:
    """Refuse predictions of weights that were trained again since. A copy with a new date is not another file."""
    weights = file.with_suffix(".safetensors")
    if not weights.is_file() or weights.stat().st_mtime_ns <= file.stat().st_mtime_ns:
        return
    found = sha256_file(weights)
    if found != sidecar.weights_sha256:
        what = f"is older than its weights: {sidecar.weights_sha256[:12]} there, {found[:12]} in {weights}"
        raise UserError(what, file=file, hint="predict_oof.py predicts it again")

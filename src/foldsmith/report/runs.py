"""What lies in run folders: configs, learning curves, timings, OOF files; and the ensemble files beside them."""

import csv
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from foldsmith.config import Config, load_config
from foldsmith.data.oof_files import Sidecar, read_sidecar
from foldsmith.ensemble.file import FORMAT, Ensemble, find_ensemble, read_ensemble
from foldsmith.errors import UserError

Rows = list[dict[str, float]]  # of a csv file; what is no finite number is left out


@dataclass(frozen=True)
class Run:
    """One experiment's folder. `metrics` and `timings` are the rows of these files, by fold."""

    folder: Path
    config: Config
    metrics: dict[int, Rows]
    timings: dict[int, Rows]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def oof(self) -> Path:
        """The OOF file of fold 0, by which the search names the experiment."""
        return self.folder / f"{self.name}_f0.npy"

    def sidecars(self) -> list[Sidecar]:
        """Of the folds that are predicted."""
        folds = range(self.config.data.num_folds)
        files = [self.folder / f"{self.name}_f{fold}.npy" for fold in folds]
        return [read_sidecar(file) for file in files if file.is_file()]


@dataclass(frozen=True)
class Found:
    """Runs by name, ensembles by the name of their file, and what could not be read."""

    runs: dict[str, Run]
    ensembles: dict[str, Ensemble]
    notes: list[str]


def find_runs(paths: Sequence[Path]) -> Found:
    """Every run and ensemble that some paths name.

    Args:
        paths: run folders, folders of runs, and ensemble files.

    Raises:
        UserError: a path is none of these, two runs have the same name, or no run is left.
    """
    runs: dict[str, Run] = {}
    ensembles: dict[Path, Ensemble] = {}
    notes: list[str] = []
    for path in paths:
        folders, files = _look(path)
        ensembles |= {file.resolve(): read_ensemble(file) for file in files}
        for folder in folders:
            try:
                run = read_run(folder)
            except UserError as error:
                notes.append(f"{folder} is left out: {error}")
                continue
            if run.name in runs and runs[run.name].folder.resolve() != folder.resolve():
                where = f"in {runs[run.name].folder.parent} and {folder.parent}"
                raise UserError(f"two experiments are called {run.name!r}: {where}", hint="name one of them")
            runs[run.name] = run
    if not runs:
        raise UserError("; ".join(notes) or "no experiment is there", hint="./train.py --config NAME.yml makes one")
    return Found(runs, _names(ensembles, runs), notes)


def _names(ensembles: Mapping[Path, Ensemble], runs: Mapping[str, Run]) -> dict[str, Ensemble]:
    """Ensembles by the name of their file; by its path where the name is not theirs alone."""
    taken = Counter([file.stem for file in ensembles] + list(runs))
    return {file.stem if taken[file.stem] == 1 else str(file): each for file, each in ensembles.items()}


def _look(path: Path) -> tuple[list[Path], list[Path]]:
    """Run folders and ensemble files that a path stands for."""
    if _is_run(path):
        return [_named(path)], []
    if path.is_dir():
        for level in ("", "*/"):  # such as runs/demo/clipart_tiny, where runs/ itself holds no experiment
            folders = sorted(child for child in path.glob(f"{level}*") if _is_run(child))
            if folders:
                return folders, sorted(file for file in path.glob(f"{level}*.yml") if _is_ensemble(file))
        raise UserError("holds no experiment", file=path, hint="name run folders, or the folder that holds them")
    file = find_ensemble(path)
    if not file.is_file():
        raise UserError("is neither a run's folder nor an ensemble file", file=path, hint="for example runs/ best.yml")
    return [], [file]


def _is_run(folder: Path) -> bool:
    return (folder / f"{_named(folder).name}.yml").is_file()


def _named(folder: Path) -> Path:
    """The folder with its name in its path: `.` has none."""
    return folder.resolve() if folder.name in ("", "..") else folder


def _is_ensemble(file: Path) -> bool:
    return f"format: {FORMAT}" in file.read_text(encoding="utf-8", errors="replace")[:4096]


def read_run(folder: Path) -> Run:
    """A run's config and what its folds wrote.

    Raises:
        UserError: it is not a run's folder, or its config is damaged.
    """
    if not _is_run(folder):
        hint = "./train.py makes runs/NAME with NAME.yml in it"
        raise UserError("is not a run's folder", file=folder, hint=hint)
    folder = _named(folder)
    config = load_config(folder / f"{folder.name}.yml")
    folds = range(config.data.num_folds)
    metrics = {fold: read_numbers(folder / f"fold{fold}" / "metrics.csv") for fold in folds}
    timings = {fold: read_numbers(folder / f"fold{fold}" / "timings.csv") for fold in folds}
    return Run(folder, config, {k: rows for k, rows in metrics.items() if rows}, timings)


def read_numbers(path: Path) -> Rows:
    """The rows of a csv file of numbers; none where it is not there. A line that is cut short is left out."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if _is_number(value)}
            for row in csv.DictReader(file)
            if None not in row and None not in row.values()
        ]


def _is_number(text: str) -> bool:
    """Whether it is a finite one: nan and inf are no scores."""
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False

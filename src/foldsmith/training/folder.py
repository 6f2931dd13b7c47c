"""The run's folder: what lies where, and whether it belongs to this experiment."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from foldsmith.config import Config, dump_yaml, read_yaml
from foldsmith.config.validate import schema_problems
from foldsmith.errors import UserError
from foldsmith.files import write_text

# Keys that, like all of test., change nothing about the weights, so a run may go on when they differ. Where the data
# lies is free, what it holds is not: its hash is checked.
FREE_KEYS = {
    "train.workers",
    "train.loggers",
    "train.worker_timeout",
    "data.root",
    "data.train_csv",
    "data.valid_csv",
    "data.labels_csv",
    "data.sample_submission",
    "data.train_dir",
    "data.test_dir",
    "data.id_column",
    "data.label_column",
    "data.label_separator",
    "data.image_extension",
    "data.folds",
    "data.cache",
}


@dataclass(frozen=True)
class RunFolder:
    """runs/<name>/ and the paths in it."""

    output: Path
    name: str

    @property
    def path(self) -> Path:
        return self.output / self.name

    @property
    def config(self) -> Path:
        return self.path / f"{self.name}.yml"

    @property
    def folds(self) -> Path:
        return self.path / "folds.csv"

    def fold(self, fold: int) -> Path:
        return self.path / f"fold{fold}"

    def best(self, fold: int) -> Path:
        """The best weights so far of a fold that still trains."""
        return self.fold(fold) / "best.safetensors"

    def weights(self, fold: int) -> Path:
        return self.path / f"{self.name}_f{fold}.safetensors"

    def oof(self, fold: int) -> Path:
        return self.path / f"{self.name}_f{fold}.npy"


def open_run(
    run: RunFolder, config: Config, *, fresh: bool = False, only_fold: int | None = None, starters: Sequence[str] = ()
) -> None:
    """Make the run's folder, or go on in it when the same experiment made it. Writes the resolved config into it.

    Args:
        config: resolved, and proved to train.
        fresh: throw away what is there: everything, or one fold when `only_fold` is given.
        starters: names of what may start this program anew, with the same arguments; see `started_over`.

    Raises:
        UserError: when the folder was made by another config, naming the keys that differ.
    """
    if fresh and only_fold is None and run.path.exists():
        if not run.config.is_file():
            raise UserError("is not a run's folder, so --fresh does not delete it", file=run.path)
        shutil.rmtree(run.path)
    if run.config.is_file():
        changed = differing_keys(read_yaml(run.config).values, config.model_dump(mode="json"))
        trained = [*run.path.glob("fold*/last.ckpt"), *run.path.glob("*.safetensors")]
        if changed and not trained:
            run.folds.unlink(missing_ok=True)
        elif changed:
            raise UserError(
                "was made by another config; these keys differ (there -> now):\n  " + "\n  ".join(changed),
                file=run.path,
                hint="--fresh starts over and deletes it; --output, or another file name, keeps both",
            )
    if fresh and only_fold is not None:
        shutil.rmtree(run.fold(only_fold), ignore_errors=True)
        for path in (run.weights(only_fold), run.oof(only_fold), run.oof(only_fold).with_suffix(".json")):
            path.unlink(missing_ok=True)
    write_text(run.config, dump_yaml(config.model_dump(mode="json")))
    if fresh and starters:
        write_text(_started_over(run, only_fold), "".join(f"{name}\n" for name in starters))


def started_over(run: RunFolder, only_fold: int | None, starters: Sequence[str]) -> bool:
    """Whether --fresh was done already, by an earlier start of the same job: what is there now is the job's own."""
    path = _started_over(run, only_fold)
    return path.is_file() and not set(starters).isdisjoint(path.read_text(encoding="utf-8").splitlines())


def _started_over(run: RunFolder, only_fold: int | None) -> Path:
    return (run.path if only_fold is None else run.fold(only_fold)) / "started_over_by.txt"


def differing_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Lines "key: old -> new" for every key whose value differs and matters to the weights.

    A key that an older version did not know counts as its default.
    """
    known, _ = schema_problems(old, Config)
    flat_old, flat_new = flat_keys(known.model_dump(mode="json") if known else old), flat_keys(new)
    return [
        f"{key}: {flat_old.get(key)!r} -> {flat_new.get(key)!r}"
        for key in sorted({*flat_old, *flat_new})
        if flat_old.get(key) != flat_new.get(key) and not (key in FREE_KEYS or key.startswith("test."))
    ]


def flat_keys(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as one level: {"loss": {"name": "bce"}} -> {"loss.name": "bce"}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= flat_keys(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat

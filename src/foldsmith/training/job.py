"""One fold of one experiment: all that its training reads, and what proves that artefacts belong to it."""

import errno
import stat
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from foldsmith.config import Config
from foldsmith.data.folds import Folds
from foldsmith.data.images import Image
from foldsmith.data.pseudo import TrainTable
from foldsmith.data.tables import Table
from foldsmith.errors import UserError
from foldsmith.files import append_text, code_sha256, sha256_json, sha256_lines
from foldsmith.training import distributed
from foldsmith.training.checkpoints import Progress
from foldsmith.training.folder import RunFolder
from foldsmith.training.records import stages_seen


@dataclass(frozen=True)
class Images:
    """The image files of every row of the experiment's table, and of every row that is trained on."""

    table: list[Path]
    train: list[Path]

    @property
    def groups(self) -> list[list[Path]]:
        """Those of the table, and those that are only trained on; the first are shared by more experiments."""
        of_table = set(self.table)
        return [self.table, [path for path in self.train if path not in of_table]]

    @property
    def sha256(self) -> str:
        """Of the images' names and sizes: reading them all would take minutes."""
        paths = self.table if self.train == self.table else self.table + self.train
        return sha256_lines(f"{path.name} {_size(path)}" for path in paths)


def _size(path: Path) -> int:
    """Bytes of a file, -1 where there is none. It is asked for once: a file server takes its time for each answer."""
    try:
        found = path.stat()
    except ValueError:  # of names
        return -1
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return -1
    return found.st_size if stat.S_ISREG(found.st_mode) else -1


@dataclass(frozen=True)
class FoldJob:
    """One fold of one experiment and all that it reads."""

    config: Config  # resolved
    table: Table  # what is split and validated
    train: TrainTable  # what is trained on: the same rows, but where train_csv holds pseudo labels
    images: Images
    folds: Folds
    hashes: dict[str, str]  # of labels and images
    run: RunFolder
    fold: int
    device: torch.device
    read: Callable[[Path], Image]  # what reads an image, from a cache where there is one
    profile: bool = False  # the first epoch that is trained
    workers: int = 0  # data loading processes
    cores: int | None = None  # that threads and these share; None: this process's

    @property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a half-finished fold to go on, and for a finished one to be kept."""
        return self.hashes | {"folds_sha256": self.folds.sha256}

    def say(self, text: str) -> None:
        """A line for the terminal and for train.log; of several processes the first one says it."""
        if not distributed.is_main():
            return
        tqdm.write(f"{self.config.name} fold {self.fold}: {text}")
        append_text(self.run.fold(self.fold) / "train.log", f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}\n")

    def check_identity(self, found: dict[str, Any], path: Path) -> None:
        """Refuse artefacts of another label table, other images or another split."""
        for key, what in (
            ("data_sha256", "the label table"),
            ("images_sha256", "the images' names or sizes"),
            ("folds_sha256", "folds.csv"),
        ):
            if found.get(key) != self.identity[key]:
                raise UserError(
                    f"belongs to other data: {what} changed "
                    f"({str(found.get(key))[:12]} there, {self.identity[key][:12]} now)",
                    file=path,
                    hint="--fresh starts over; --output keeps both",
                )

    def header(self, progress: Progress, score: float, threshold: float | None) -> dict[str, Any]:
        """What travels with the weights of the epoch that has just ended."""
        config = self.config.model_dump(mode="json")
        return {
            **self.identity,
            "name": self.config.name,
            "fold": self.fold,
            "config": config,
            "config_sha256": sha256_json(config),
            "code_sha256": code_sha256(),
            "classes": self.table.classes.tokens,
            "epoch": progress.epoch,
            "stages": stages_seen(progress.metrics),
            "metric": self.config.metric,
            "score": score,
            "threshold": threshold,
        }

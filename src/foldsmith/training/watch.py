"""What people look at while a fold trains: one bar in the terminal, and the loggers that the config names."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from foldsmith.config import Config
from foldsmith.training import distributed, parallel
from foldsmith.training.loggers import Logger, open_loggers
from foldsmith.training.stages import stages_of

FORMAT = "{desc} {percentage:3.0f}%|{bar}| epoch {n:.1f}/{total} [{elapsed}<{remaining}{postfix}]"


class Watch:
    """One fold's bar, which lasts for all of its epochs; nothing where the output is no terminal."""

    def __init__(self, config: Config, fold: int, folder: Path) -> None:
        self.config, self.fold, self.folder = config, fold, folder
        self.bar: tqdm | None = None
        self.loggers: list[Logger] = []
        self.shown: dict[str, str] = {}

    @contextlib.contextmanager
    def epoch(self, batches: Iterable[Any], count: int, epochs_done: int) -> Iterator[Iterator[Any]]:
        """The `count` batches of an epoch; the bar moves by one epoch while they are taken."""
        if self.bar is None:
            self._open(epochs_done)
        assert self.bar is not None
        self.bar.n = epochs_done  # an epoch may start over
        yield self._moving(batches, count, self.bar)
        self.bar.n = epochs_done + 1
        self.bar.refresh()

    def _moving(self, batches: Iterable[Any], count: int, bar: tqdm) -> Iterator[Any]:
        started, batch_size = time.monotonic(), parallel.batch_of_all(self.config.train)
        for number, item in enumerate(batches, start=1):
            yield item
            speed = number * batch_size / (time.monotonic() - started)
            self.shown["images/s"] = f"{speed:.0f}"
            bar.set_postfix(self.shown, refresh=False)
            bar.update(1 / count)

    def show_loss(self, loss: float) -> None:
        self.shown["loss"] = f"{loss:.4f}"

    def log(self, row: Mapping[str, Any], timing: Mapping[str, Any]) -> None:
        """The numbers of an epoch that has ended: its rows of metrics.csv and of timings.csv."""
        metric = self.config.metric
        self.show_loss(row["train_loss"])  # the epoch's mean, no longer the last batch's
        if row.get(metric) is not None:
            self.shown[metric] = f"{row[metric]:.4f}"
        if self.bar is not None:
            self.bar.set_postfix(self.shown)
        known = {**timing, **row}
        values = {key: float(value) for key, value in known.items() if key != "epoch" and value is not None}
        for logger in self.loggers:
            logger.log(int(row["epoch"]), values)

    def close(self) -> None:
        """End the bar and the loggers."""
        if self.bar is not None:
            self.bar.close()
        for logger in self.loggers:
            logger.close()
        self.bar, self.loggers = None, []

    def _open(self, epochs_done: int) -> None:
        if distributed.is_main():
            self.loggers = open_loggers(self.config, self.fold, self.folder, epochs_done)
        total = sum(stage.epochs for stage in stages_of(self.config))
        self.bar = tqdm(
            total=total,
            initial=epochs_done,
            desc=f"{self.config.name} fold {self.fold}",
            bar_format=FORMAT,
            smoothing=0,  # validation and the slower first batches count in the time left
            disable=None if distributed.is_main() else True,
            leave=False,
        )

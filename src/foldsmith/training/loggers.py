"""Where scores go beside metrics.csv: TensorBoard and Weights & Biases, each a package that is installed apart."""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from foldsmith.config import Config
from foldsmith.errors import UserError
from foldsmith.files import sha256_json


class Logger(Protocol):
    """A place for the numbers of each epoch."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the fold's folder: tensorboard --logdir runs/NAME."""

    package = "tensorboard"

    def __init__(self, config: Config, fold: int, folder: Path, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run wrote of an epoch that is trained again is dropped.
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=epochs_done + 1 if epochs_done else None)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run for each fold, grouped by experiment; WANDB_PROJECT, WANDB_MODE and the like are obeyed."""

    package = "wandb"

    def __init__(self, config: Config, fold: int, folder: Path, epochs_done: int) -> None:
        import os

        import wandb

        values = config.model_dump(mode="json")
        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "foldsmith"),
            name=f"{config.name}_f{fold}",
            group=config.name,
            # The same fold of the same config goes on in the same run.
            id=f"{config.name}_f{fold}_{sha256_json([values, str(folder.resolve())])[:12]}",
            resume="allow",
            dir=str(folder),
            config=values,
        )

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        self.run.finish()


def check_loggers(config: Config) -> None:
    """Refuse a logger whose package is not installed, before anything is trained."""
    for name in config.train.loggers:
        package = LOGGERS[name].package
        if importlib.util.find_spec(package) is None:
            hint = f"pip install {package}, or take it out of train.loggers"
            raise UserError(f"{name} is not installed", key="train.loggers", hint=hint)


def open_loggers(config: Config, fold: int, folder: Path, epochs_done: int) -> list[Logger]:
    """Those that the config names.

    Args:
        folder: the fold's.
        epochs_done: before this process.
    """
    return [LOGGERS[name](config, fold, folder, epochs_done) for name in dict.fromkeys(config.train.loggers)]


LOGGERS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}

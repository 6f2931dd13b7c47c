"""Where scores go beside metrics.csv: TensorBoard and Weights & Biases, each a package that is installed apart."""

import contextlib
import importlib.util
import io
import os
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from foldsmith.config import Config
from foldsmith.errors import EXIT_ENVIRONMENT, WRITE_ERRNOS, UserError
from foldsmith.files import append_bytes, sha256_json, unnamed_failure


class Logger(Protocol):
    """A place for the numbers of each epoch."""

    def log(self, epoch: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the fold's folder: tensorboard --logdir runs/NAME.

    Written as the log that they are, an epoch at a time: SummaryWriter has a thread for it, whose errors nobody hears.
    """

    package = "tensorboard"

    def __init__(self, config: Config, fold: int, folder: Path, epochs_done: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{int(time.time()):010}.{socket.gethostname()}.{os.getpid()}"
        self.path = folder / "tensorboard" / name
        events = [Event(file_version="brain.Event:2")]
        if epochs_done:  # what an interrupted run wrote of an epoch that is trained again is dropped
            events.append(Event(step=epochs_done + 1, session_log=SessionLog(status=SessionLog.START)))
        self._append(events)

    def log(self, epoch: int, values: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append([Event(step=epoch, summary=Summary(value=[scalar])) for scalar in scalars])

    def _append(self, events: list[Any]) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        for event in events:
            event.wall_time = time.time()
            RecordWriter(buffer).write(event.SerializeToString())
        append_bytes(self.path, buffer.getvalue())

    def close(self) -> None:
        """Nothing is open."""


class WeightsAndBiases:
    """A run for each fold, grouped by experiment; WANDB_PROJECT, WANDB_MODE and the like are obeyed."""

    package = "wandb"

    def __init__(self, config: Config, fold: int, folder: Path, epochs_done: int) -> None:
        import wandb

        self.folder = folder / "wandb"
        values = config.model_dump(mode="json")
        folder.mkdir(parents=True, exist_ok=True)
        with self._named():
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
        with self._named():
            self.run.log(dict(values), step=epoch)

    def close(self) -> None:
        with self._named():
            self.run.finish()

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        """Errors of the package, as those of its folder: a full disk, a service that does not answer."""
        import wandb

        try:
            yield
        except OSError as error:
            if error.errno in WRITE_ERRNOS:
                raise unnamed_failure(OSError(error.errno, error.strerror, str(self.folder))) from None
            raise
        except wandb.Error as error:
            hint = "WANDB_MODE=offline needs no network; or take wandb out of train.loggers"
            raise UserError(
                f"wandb: {error}", file=self.folder, key="train.loggers", hint=hint, code=EXIT_ENVIRONMENT
            ) from None


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

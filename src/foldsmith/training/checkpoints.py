"""last.ckpt: everything that the next epoch needs, written after each epoch, read without running code."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from foldsmith.errors import EXIT_UNTRUSTED, UserError
from foldsmith.failpoints import fail
from foldsmith.files import atomic_path
from foldsmith.models.pickles import load_pickle
from foldsmith.models.weights import DAMAGED
from foldsmith.training.schedules import Schedule


@dataclass
class Progress:
    """How far a fold has come. Scores: higher is better. What `next_stage` does not reset counts from the start."""

    epoch: int = 0  # finished epochs
    stage: int = 0  # the stage that is trained, from 0
    stage_epoch: int = 0  # finished epochs of the stage
    step: int = 0  # finished optimizer steps of the stage
    best_score: float = float("-inf")  # of the stage
    best_epoch: int = 0  # its number from the start
    finished: bool = False  # the stage ended early
    metrics: list[dict[str, Any]] = field(default_factory=list)  # a row of metrics.csv an epoch

    def next_stage(self) -> "Progress":
        """The progress with which the following stage begins."""
        return Progress(epoch=self.epoch, stage=self.stage + 1, metrics=self.metrics)


@dataclass
class Training:
    """What changes while a fold trains."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    swa: AveragedModel | None
    masks: dict[str, Tensor]  # of sparse weights, by parameter name; empty: dense
    progress: Progress
    parallel: nn.Module | None = None  # the model within DistributedDataParallel, where several processes train
    pieces: int = 1  # parts in which a batch goes through the network: more where memory ran out

    @property
    def scored_model(self) -> nn.Module:
        """What is validated and kept: the moving average where there is one."""
        return self.model if self.ema is None else self.ema.module


def save_checkpoint(path: Path, training: Training, identity: dict[str, Any]) -> None:
    """Write last.ckpt atomically. `identity` (hashes, threads ...) must be the same again on resume."""
    content = {
        "identity": identity,
        "progress": asdict(training.progress),
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "schedule": training.schedule.state(),
        "scaler": training.scaler.state_dict(),
        "ema": training.ema.module.state_dict() if training.ema else None,
        "swa": training.swa.state_dict() if training.swa else None,
        "masks": training.masks,
    }
    fail("checkpoint.begin")
    with atomic_path(path, _size(content)) as temporary:
        torch.save(content, temporary)
    fail("checkpoint.written")


def _size(content: Any) -> int:
    """Bytes of all tensors in nested dicts and lists."""
    if isinstance(content, Tensor):
        return content.nbytes
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    return sum(map(_size, parts))


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any]:
    """Read last.ckpt; a damaged one is an error with code 4."""
    try:
        content = load_pickle(path, device)
        assert set(content) >= {"identity", "progress", "model", "optimizer", "schedule", "scaler", "masks"}
    except DAMAGED as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise UserError(
            f"is damaged: {reason}", file=path, code=EXIT_UNTRUSTED, hint="--fresh starts the fold over"
        ) from None
    return content


def restore(training: Training, content: dict[str, Any]) -> None:
    """Put a checkpoint's content into freshly built objects."""
    training.model.load_state_dict(content["model"])
    training.optimizer.load_state_dict(content["optimizer"])
    training.schedule.restore(content["schedule"])
    training.scaler.load_state_dict(content["scaler"])
    if training.ema is not None:
        training.ema.module.load_state_dict(content["ema"])
    if training.swa is not None:
        training.swa.load_state_dict(content["swa"])
    training.masks = content["masks"]
    training.progress = Progress(**content["progress"])

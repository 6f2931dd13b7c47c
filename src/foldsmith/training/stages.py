"""The stages of a training: each is the experiment with some of its keys replaced."""

import math
from dataclasses import dataclass
from typing import Any

from foldsmith.config import Config


@dataclass(frozen=True)
class StagePlan:
    """A stage as the training sees it."""

    number: int  # from 0
    config: Config  # of the experiment, with the stage's keys in their places
    sparsity: float | None
    own: frozenset[str]  # keys that the stage names itself; the others are the experiment's

    @property
    def epochs(self) -> int:
        """Epochs of the stage, a last part of one included."""
        return math.ceil(self.config.train.num_epochs)

    def share_of_epoch(self, epoch: int) -> float:
        """The part of the images that epoch `epoch` of the stage (from 0) goes through, in (0, 1]."""
        return min(1.0, self.config.train.num_epochs - epoch)

    def key(self, key: str) -> str:
        """Where a key of `config` stands in the experiment file: train.trainable, or train.stages[1].trainable."""
        first, *_ = own = key.removeprefix("train.").split(".")
        return f"train.stages[{self.number}].{'.'.join(own)}" if first in self.own else key

    @property
    def words(self) -> str:
        """What it is, for the log."""
        train = self.config.train
        sparse = f", {self.sparsity:.0%} of the weights zero" if self.sparsity else ""
        return f"{train.num_epochs:g} epochs, trainable: {train.trainable}{sparse}"


def stages_of(config: Config) -> list[StagePlan]:
    """The stages of an experiment; one without train.stages is a single stage.

    The warmup belongs to the first stage, weight averaging to the last.
    """
    stages = config.train.stages
    if not stages:
        return [StagePlan(0, config, None, frozenset())]
    plans = []
    for number, stage in enumerate(stages):
        named = {key: getattr(stage, key) for key in stage.model_fields_set}
        of_train = named.keys() & {"num_epochs", "trainable", "sampler", "mixup"}
        train: dict[str, Any] = {key: named[key] for key in of_train}
        train |= {} if number == 0 else {"warmup": None}
        train |= {} if number == len(stages) - 1 else {"swa": None}
        # A null where the experiment has a section that every training needs means the experiment's.
        sections = {key: named[key] for key in ("optimizer", "scheduler", "loss") if named.get(key) is not None}
        update = {"train": config.train.model_copy(update=train), **sections}
        plans.append(StagePlan(number, config.model_copy(update=update), stage.sparsity, frozenset(named)))
    return plans

"""Learning rate schedules: pure functions of the step, so that a resumed run needs no more than the step's number.

Only reduce_lr_on_plateau has a memory, and it is two numbers. `Schedule.rate` is what an optimizer group gets.
"""

import math
from typing import Any

import torch

from foldsmith.config.training import Warmup


class Schedule:
    """A constant rate; the base of all others."""

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        """The rate of a group whose own rate is `initial`, at optimizer step `step` of `total` (counted from 0).

        `per_epoch` is the number of steps of an epoch.
        """
        return initial

    def end_epoch(self, score: float) -> bool:
        """Told the validation score (higher is better) after every epoch; True: go back to the best weights."""
        return False

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""


class Cosine(Schedule):
    """Half a cosine from the initial rate to `min_lr` (Loshchilov and Hutter 2017, arXiv:1608.03983, no restarts)."""

    def __init__(self, min_lr: float = 0.0) -> None:
        if min_lr < 0:
            raise ValueError(f"min_lr is at least 0, got {min_lr}")
        self.min_lr = min_lr

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        return self.min_lr + (initial - self.min_lr) * (1 + math.cos(math.pi * step / total)) / 2


class OneCycle(Schedule):
    """Up to the initial rate, then down to almost nothing, both along cosines (Smith and Topin 2018, arXiv:1708.07120).

    Step by step the rates of torch.optim.lr_scheduler.OneCycleLR.

    Args:
        pct_start: in (0, 1): share of the steps that rise.
        div_factor: the first rate is initial / div_factor.
        final_div_factor: the last rate is the first rate / final_div_factor.
    """

    def __init__(self, pct_start: float = 0.3, div_factor: float = 25.0, final_div_factor: float = 1e4) -> None:
        if not 0 < pct_start < 1 or div_factor < 1 or final_div_factor < 1:
            raise ValueError("pct_start lies between 0 and 1, div_factor and final_div_factor are at least 1")
        self.pct_start, self.div_factor, self.final_div_factor = pct_start, div_factor, final_div_factor

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        first = initial / self.div_factor
        peak, end = self.pct_start * total - 1, total - 1
        if step <= peak:
            return _cosine(first, initial, step / peak if peak else 1.0)
        return _cosine(initial, first / self.final_div_factor, (step - peak) / (end - peak) if end > peak else 1.0)


class MultiStep(Schedule):
    """Multiply the rate by `gamma` at each milestone.

    Args:
        milestones: epochs, counted from 1, after which the rate falls.
        gamma: in (0, 1).
    """

    def __init__(self, milestones: list[int], gamma: float = 0.1) -> None:
        if not 0 < gamma < 1 or not all(type(epoch) is int and epoch > 0 for epoch in milestones):
            raise ValueError("gamma lies between 0 and 1, milestones are whole epochs above 0")
        self.milestones, self.gamma = milestones, gamma

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        return initial * self.gamma ** sum(step // per_epoch >= milestone for milestone in self.milestones)


class Cyclic(Schedule):
    """Up and down between `base_lr` and the initial rate in straight lines (Smith 2017, arXiv:1506.01186).

    Step by step the rates of torch.optim.lr_scheduler.CyclicLR, its max_lr being the group's own rate.

    Args:
        base_lr: the lowest rate.
        step_size_up: steps of a rise.
        step_size_down: steps of a fall; None: as many.
        mode: triangular (every peak the same), triangular2 (each half as high) or exp_range (times gamma^step).
        gamma: of exp_range.
        decay: in (0, 1]: both ends of the range are multiplied by it at each of `decay_milestones`, epochs counted
            from 1.
    """

    def __init__(
        self,
        base_lr: float,
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
        decay: float = 1.0,
        decay_milestones: list[int] | None = None,
    ) -> None:
        if mode not in ("triangular", "triangular2", "exp_range"):
            raise ValueError(f"mode is triangular, triangular2 or exp_range, got {mode!r}")
        if base_lr < 0 or step_size_up < 1 or (step_size_down or 1) < 1 or not 0 < gamma <= 1:
            raise ValueError("base_lr is at least 0, step sizes at least 1, gamma in 0..1")
        self.base_lr, self.up, self.down = base_lr, step_size_up, step_size_down or step_size_up
        if not 0 < decay <= 1 or not all(type(epoch) is int and epoch > 0 for epoch in decay_milestones or []):
            raise ValueError("decay lies in 0..1, decay_milestones are whole epochs above 0")
        self.mode, self.gamma = mode, gamma
        self.decay, self.milestones = decay, decay_milestones or []

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        cycle, inside = divmod(step, self.up + self.down)
        height = inside / self.up if inside <= self.up else 1 - (inside - self.up) / self.down
        scale = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": self.gamma**step}[self.mode]
        decayed = self.decay ** sum(step // per_epoch >= milestone for milestone in self.milestones)
        return decayed * (self.base_lr + (initial - self.base_lr) * height * scale)


class CosineRestarts(Schedule):
    """Half a cosine from the initial rate to `min_lr`, again and again (Loshchilov and Hutter 2017, arXiv:1608.03983).

    Args:
        period: epochs of the first one.
        period_inc: epochs by which each is longer than the one before.
        max_period: epochs that none exceeds; None: no limit.
        min_lr: the rate at the end of each.
    """

    def __init__(
        self, period: float, period_inc: float = 0.0, max_period: float | None = None, min_lr: float = 0.0
    ) -> None:
        if period <= 0 or period_inc < 0 or min_lr < 0 or (max_period is not None and max_period < period):
            raise ValueError("period is above 0, period_inc and min_lr at least 0, max_period at least period")
        self.period, self.period_inc, self.max_period, self.min_lr = period, period_inc, max_period, min_lr

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        epoch, period = step / per_epoch, self.period
        while epoch >= period:
            epoch -= period
            period = min(period + self.period_inc, self.max_period or math.inf)
        return _cosine(initial, self.min_lr, epoch / period)


class ReduceOnPlateau(Schedule):
    """Multiply the rate by `factor` when the score has not risen for more than `patience` epochs.

    The decisions of torch.optim.lr_scheduler.ReduceLROnPlateau(mode="max", threshold_mode="rel").

    Args:
        factor: in (0, 1).
        patience: epochs without a rise that are tolerated.
        min_lr: no rate falls below it.
        threshold: relative rise that counts as one.
        reload_best: go on from the best weights whenever the rate falls.
    """

    def __init__(
        self,
        factor: float = 0.1,
        patience: int = 10,
        min_lr: float = 0.0,
        threshold: float = 1e-4,
        reload_best: bool = False,
    ) -> None:
        if not 0 < factor < 1 or patience < 0 or min_lr < 0:
            raise ValueError("factor lies between 0 and 1, patience and min_lr are at least 0")
        self.factor, self.patience, self.min_lr, self.threshold = factor, patience, min_lr, threshold
        self.reload_best = reload_best
        self.best, self.bad_epochs, self.drops = -math.inf, 0, 0

    def rate(self, initial: float, step: int, total: int, per_epoch: int) -> float:
        return max(initial * self.factor**self.drops, min(self.min_lr, initial))

    def end_epoch(self, score: float) -> bool:
        # Scores of metrics of which less is better come negated.
        if self.best == -math.inf or score > self.best + self.threshold * abs(self.best):
            self.best, self.bad_epochs = score, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs <= self.patience:
            return False
        self.drops, self.bad_epochs = self.drops + 1, 0
        return self.reload_best

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "bad_epochs": self.bad_epochs, "drops": self.drops}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.bad_epochs, self.drops = state["best"], state["bad_epochs"], state["drops"]


def set_rates(
    optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, total: int, per_epoch: int, warmup: Warmup | None
) -> None:
    """Give every group its rate for the optimizer step that follows; warming up it is a rising share of it."""
    share = min(1.0, (step + 1) / warmup.steps) if warmup else 1.0
    for group in optimizer.param_groups:
        rate = schedule.rate(group["initial_lr"], step, total, per_epoch)
        if warmup and warmup.max_lr and step < warmup.steps:
            rate = warmup.max_lr
        group["lr"] = share * rate


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "cyclic": Cyclic,
    "multi_step": MultiStep,
    "one_cycle": OneCycle,
    "reduce_lr_on_plateau": ReduceOnPlateau,
}

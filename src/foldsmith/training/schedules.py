"""Learning rate schedules: pure functions of the step, so that a resumed run needs no more than the step's number.

Only reduce_lr_on_plateau has a memory, and it is two numbers. `Schedule.rate` is what an optimizer group gets.
"""

import math
from typing import Any

import torch


class Schedule:
    """A constant rate; the base of all others."""

    def rate(self, initial: float, step: int, total: int) -> float:
        """The rate of a group whose own rate is `initial`, at optimizer step `step` of `total` (counted from 0)."""
        return initial

    def end_epoch(self, score: float) -> None:
        """Told the validation score (higher is better) after every epoch."""

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

    def rate(self, initial: float, step: int, total: int) -> float:
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

    def rate(self, initial: float, step: int, total: int) -> float:
        first = initial / self.div_factor
        peak, end = self.pct_start * total - 1, total - 1
        if step <= peak:
            return _cosine(first, initial, step / peak if peak else 1.0)
        return _cosine(initial, first / self.final_div_factor, (step - peak) / (end - peak) if end > peak else 1.0)


class ReduceOnPlateau(Schedule):
    """Multiply the rate by `factor` when the score has not risen for more than `patience` epochs.

    The decisions of torch.optim.lr_scheduler.ReduceLROnPlateau(mode="max", threshold_mode="rel").

    Args:
        factor: in (0, 1).
        patience: epochs without a rise that are tolerated.
        min_lr: no rate falls below it.
        threshold: relative rise that counts as one.
    """

    def __init__(self, factor: float = 0.1, patience: int = 10, min_lr: float = 0.0, threshold: float = 1e-4) -> None:
        if not 0 < factor < 1 or patience < 0 or min_lr < 0:
            raise ValueError("factor lies between 0 and 1, patience and min_lr are at least 0")
        self.factor, self.patience, self.min_lr, self.threshold = factor, patience, min_lr, threshold
        self.best, self.bad_epochs, self.drops = -math.inf, 0, 0

    def rate(self, initial: float, step: int, total: int) -> float:
        return max(initial * self.factor**self.drops, min(self.min_lr, initial))

    def end_epoch(self, score: float) -> None:
        if score > self.best * (1 + self.threshold) or self.best == -math.inf:
            self.best, self.bad_epochs = score, 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs > self.patience:
            self.drops, self.bad_epochs = self.drops + 1, 0

    def state(self) -> dict[str, Any]:
        return {"best": self.best, "bad_epochs": self.bad_epochs, "drops": self.drops}

    def restore(self, state: dict[str, Any]) -> None:
        self.best, self.bad_epochs, self.drops = state["best"], state["bad_epochs"], state["drops"]


def set_rates(optimizer: torch.optim.Optimizer, schedule: Schedule, step: int, total: int, warmup_steps: int) -> None:
    """Give every group its rate for the optimizer step that follows."""
    warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
    for group in optimizer.param_groups:
        group["lr"] = warm * schedule.rate(group["initial_lr"], step, total)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Schedule,
    "cosine": Cosine,
    "one_cycle": OneCycle,
    "reduce_lr_on_plateau": ReduceOnPlateau,
}

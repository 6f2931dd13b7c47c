"""Losses for multi-hot targets. Each takes float logits (N, C) and targets (N, C) in [0, 1] and gives a scalar mean."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BCELoss(nn.Module):
    """Binary cross-entropy on logits, mean over images and classes."""

    def __init__(self) -> None:  # so that its signature says that it takes no arguments
        super().__init__()

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets)


class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): bce * (1 - p_t)^gamma, weighted by alpha_t, mean.

    Args:
        gamma: at least 0; how much less the entries count that are right already. 0 is (weighted) binary cross-entropy.
        alpha: in [0, 1]: weight of positive entries, 1 - alpha of negative ones; None: no weights.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__()
        if gamma < 0 or not 0 <= (alpha or 0) <= 1:
            raise ValueError(f"gamma is at least 0 and alpha in 0..1, got {gamma} and {alpha}")
        self.gamma = gamma
        self.alpha = alpha

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        wrong = logits.sigmoid() * (1 - targets) + (-logits).sigmoid() * targets  # 1 - p_t, exact near 0
        loss = bce * wrong.clamp_min(1e-12) ** self.gamma  # below gamma = 1 the slope at 0 is infinite
        if self.alpha is not None:
            loss = loss * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return loss.mean()


class ForgivingLoss(nn.Module):
    """bce(x, y) + weight * bce(x * y, y), mean over images and classes: for labels of which many are missing.

    The second term looks at positive entries alone (at the others its logit is 0, a constant), so a label that is
    there counts 1 + weight times, one that may be missing once. From the 7-model solution of iMet Collection 2019.

    Args:
        weight: at least 0; 0 is binary cross-entropy.
    """

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight is at least 0, got {weight}")
        self.weight = weight

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, targets)
        return bce + self.weight * F.binary_cross_entropy_with_logits(logits * targets, targets)


LOSSES: dict[str, type[nn.Module]] = {
    "bce": BCELoss,
    "focal": FocalLoss,
    "forgiving": ForgivingLoss,
}


def build_loss(name: str, params: dict[str, float]) -> torch.nn.Module:
    """The loss that `loss:` chooses."""
    return LOSSES[name](**params)

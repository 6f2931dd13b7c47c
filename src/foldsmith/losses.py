"""Losses. Each takes float logits (N, C) and targets (N, C) in [0, 1] and gives a scalar mean.

Targets are multi-hot or, for the multiclass task, one-hot; mixup and cutmix make shares of them. A loss whose
constructor has `class_weights`, float (C,), multiplies each class's part by its weight.
"""

import inspect

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn


class BCELoss(nn.Module):
    """Binary cross-entropy on logits, mean over images and classes."""

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, weight=self.class_weights)


class FocalLoss(nn.Module):
    """Focal loss (Lin et al. 2017, arXiv:1708.02002): bce * (1 - p_t)^gamma, weighted by alpha_t, mean.

    Args:
        gamma: at least 0; how much less the entries count that are right already. 0 is (weighted) binary cross-entropy.
        alpha: in [0, 1]: weight of positive entries, 1 - alpha of negative ones; None: no weights.
        reduction: mean over images and classes, or sum.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction is mean or sum, got {reduction!r}")
        if gamma < 0 or not 0 <= (alpha or 0) <= 1:
            raise ValueError(f"gamma is at least 0 and alpha in 0..1, got {gamma} and {alpha}")
        self.gamma = gamma
        self.alpha = alpha
        self.reduction = reduction

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        wrong = logits.sigmoid() * (1 - targets) + (-logits).sigmoid() * targets  # 1 - p_t, exact near 0
        loss = bce * wrong.clamp_min(1e-12) ** self.gamma  # below gamma = 1 the slope at 0 is infinite
        if self.alpha is not None:
            loss = loss * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return loss.mean() if self.reduction == "mean" else loss.sum()


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


class FBetaLoss(nn.Module):
    """1 - soft F-beta: probabilities take the place of predictions; an image's score is averaged over images.

    An image without labels scores 0 whatever is predicted, as in metrics.py, and so has no gradient.

    Args:
        beta: above 0; above 1 a missed label costs more than a wrong one.
    """

    def __init__(self, beta: float = 2.0) -> None:
        super().__init__()
        if beta <= 0:
            raise ValueError(f"beta is above 0, got {beta}")
        self.beta = beta

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        p, weight = logits.sigmoid(), self.beta**2
        hits = (p * targets).sum(dim=1)
        scores = (1 + weight) * hits / (weight * targets.sum(dim=1) + p.sum(dim=1)).clamp_min(1e-7)
        return 1 - scores.mean()


class BCEFocalLoss(nn.Module):
    """bce + weight * focal(gamma, alpha)."""

    def __init__(self, weight: float = 1.0, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight is at least 0, got {weight}")
        self.weight = weight
        self.bce, self.focal = BCELoss(), FocalLoss(gamma, alpha)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.bce(logits, targets) + self.weight * self.focal(logits, targets)


class BCEF2Loss(nn.Module):
    """bce + weight * (1 - soft F-beta)."""

    def __init__(self, weight: float = 1.0, beta: float = 2.0) -> None:
        super().__init__()
        if weight < 0:
            raise ValueError(f"weight is at least 0, got {weight}")
        self.weight = weight
        self.bce, self.fbeta = BCELoss(), FBetaLoss(beta)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.bce(logits, targets) + self.weight * self.fbeta(logits, targets)


class AsymmetricLoss(nn.Module):
    """timm's asymmetric loss (Ridnik et al. 2021, arXiv:2009.14119), as a mean over images and classes.

    timm's default sums over classes; the mean lets learning rates carry over from the other losses.

    Args:
        gamma_neg, gamma_pos: at least 0; focusing of negative and of positive entries.
        clip: in [0, 1): probability by which negative entries are shifted down.
    """

    def __init__(self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05) -> None:
        super().__init__()
        if gamma_neg < 0 or gamma_pos < 0 or not 0 <= clip < 1:
            raise ValueError(f"gammas are at least 0 and clip in 0..1, got {gamma_neg}, {gamma_pos}, {clip}")
        self.loss = AsymmetricLossMultiLabel(gamma_neg=gamma_neg, gamma_pos=gamma_pos, clip=clip, reduction="mean")

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self.loss(logits, targets)


class MultiLabelSoftMarginLoss(nn.MultiLabelSoftMarginLoss):
    """torch's own; the mean over classes of binary cross-entropy, then over images: the values of bce."""

    def __init__(self, class_weights: Tensor | None = None) -> None:
        super().__init__(weight=class_weights)


class CrossEntropyLoss(nn.Module):
    """Cross-entropy of a softmax (torch's), for one label an image: the mean weighted by each image's class weight.

    Args:
        label_smoothing: in [0, 1): share of each target that is spread evenly over all classes.
    """

    task = "multiclass"
    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | None = None) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing is at least 0 and below 1, got {label_smoothing}")
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        # Class shares instead of indices: mixup and cutmix need them. torch's mean divides by the weights for indices
        # only.
        weights, smoothing = self.class_weights, self.label_smoothing
        total = F.cross_entropy(logits, targets, weight=weights, label_smoothing=smoothing, reduction="sum")
        return total / (len(targets) if weights is None else (targets @ weights).sum())


LOSSES: dict[str, type[nn.Module]] = {
    "bce": BCELoss,
    "focal": FocalLoss,
    "forgiving": ForgivingLoss,
    "f2": FBetaLoss,
    "bce_focal": BCEFocalLoss,
    "bce_f2": BCEF2Loss,
    "mlsm": MultiLabelSoftMarginLoss,
    "asymmetric": AsymmetricLoss,
    "cross_entropy": CrossEntropyLoss,
}


def task_of(loss: type[nn.Module]) -> str:
    """The task that a loss is for: multilabel where it does not say another."""
    return getattr(loss, "task", "multilabel")


def divisor(loss: nn.Module, targets: Tensor) -> float:
    """What the loss's mean over a batch (N, classes) divides by, up to a constant; 0 for a loss that is a sum.

    A mean over several processes' batches needs it: each counts by its divisor.
    """
    if getattr(loss, "reduction", "mean") == "sum":
        return 0.0
    if isinstance(loss, CrossEntropyLoss) and loss.class_weights is not None:
        return float((targets @ loss.class_weights).sum())
    return float(len(targets))


def takes_class_weights(loss: type[nn.Module]) -> bool:
    """True when the loss can weight classes."""
    return "class_weights" in inspect.signature(loss).parameters


def build_loss(name: str, params: dict[str, float], class_weights: Tensor | None = None) -> torch.nn.Module:
    """The loss that `loss:` chooses."""
    return LOSSES[name](**params) if class_weights is None else LOSSES[name](**params, class_weights=class_weights)

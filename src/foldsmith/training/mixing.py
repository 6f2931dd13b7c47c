"""Mixing the images and labels of a batch, on the device. All randomness comes from the generator that is passed in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foldsmith.training import distributed

Partners = Callable[[Tensor], Tensor]  # rows of a batch to the rows of the images that they are mixed with


@dataclass(frozen=True)
class Mixing:
    """What `train.mixup` and `train.cutmix` ask for; where both do, each batch gets one of them, half of the time each.

    Args:
        mixup_alpha, cutmix_alpha: above 0, the share of the first image is drawn from Beta(alpha, alpha); None: off.
        prob: in [0, 1]: probability that a batch is mixed at all.
    """

    mixup_alpha: float | None
    cutmix_alpha: float | None
    prob: float = 1.0

    def __call__(self, x: Tensor, y: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Mix every image with another one of the batch: of the whole batch where several processes share it.

        Args:
            x: (N, C, H, W); y: (N, classes), float.
        """
        if generator.random() >= self.prob:
            return x, y
        partners = distributed.partners(generator.permutation(int(distributed.total(len(x)))))
        if self.mixup_alpha is None or (self.cutmix_alpha is not None and generator.random() < 0.5):
            alpha = self.cutmix_alpha or 1.0
            return cutmix(x, y, partners, float(generator.beta(alpha, alpha)), generator)
        return mixup(x, y, partners, float(generator.beta(self.mixup_alpha, self.mixup_alpha)))


def mixup(x: Tensor, y: Tensor, partners: Partners, share: float) -> tuple[Tensor, Tensor]:
    """share * image + (1 - share) * partner, labels likewise (Zhang et al. 2018, arXiv:1710.09412)."""
    return x.mul(share).add_(partners(x), alpha=1 - share), y * share + partners(y) * (1 - share)


def cutmix(
    x: Tensor, y: Tensor, partners: Partners, share: float, generator: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """A box of 1 - share of the partner over the image (Yun et al. 2019, arXiv:1905.04899).

    Labels are mixed by the area that the box covers after it was cut at the image's border.
    """
    height, width = x.shape[2:]
    side = float(np.sqrt(1 - share))
    row, column = int(generator.integers(height)), int(generator.integers(width))
    half_height, half_width = round(height * side / 2), round(width * side / 2)
    top, bottom = max(0, row - half_height), min(height, row + half_height)
    left, right = max(0, column - half_width), min(width, column + half_width)
    box = partners(x[:, :, top:bottom, left:right])
    x = x.clone()
    x[:, :, top:bottom, left:right] = box
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return x, y * kept + partners(y) * (1 - kept)

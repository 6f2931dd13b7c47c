"""Mixing the images and labels of a batch, on the device. All randomness comes from the generator that is passed in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from foldsmith.training import distributed

Partners = Callable[[Tensor], Tensor]  # rows of a batch to the rows of the images that they are mixed with
ToInput = Callable[[Tensor], Tensor]


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

    def __call__(
        self, images: Tensor, y: Tensor, generator: np.random.Generator, to_input: ToInput
    ) -> tuple[Tensor, Tensor]:
        """The network's input and labels of a batch, every image mixed with another one of it.

        Where several processes share the batch, partners are of the whole batch, and travel as bytes.

        Args:
            images: uint8 (N, H, W, C); y: (N, classes), float.
            to_input: gives a new (N, C, H, W) tensor.
        """
        if generator.random() >= self.prob:
            return to_input(images), y
        partners = distributed.partners(generator.permutation(int(distributed.total(len(images)))))
        if self.mixup_alpha is None or (self.cutmix_alpha is not None and generator.random() < 0.5):
            alpha = self.cutmix_alpha or 1.0
            return cutmix(images, y, partners, float(generator.beta(alpha, alpha)), generator, to_input)
        return mixup(images, y, partners, float(generator.beta(self.mixup_alpha, self.mixup_alpha)), to_input)


def mixup(images: Tensor, y: Tensor, partners: Partners, share: float, to_input: ToInput) -> tuple[Tensor, Tensor]:
    """share * image + (1 - share) * partner, labels likewise (Zhang et al. 2018, arXiv:1710.09412)."""
    x = to_input(images).mul_(share).add_(to_input(partners(images)), alpha=1 - share)
    return x, y * share + partners(y) * (1 - share)


def cutmix(
    images: Tensor,
    y: Tensor,
    partners: Partners,
    share: float,
    generator: np.random.Generator,
    to_input: ToInput,
) -> tuple[Tensor, Tensor]:
    """A box of 1 - share of the partner over the image (Yun et al. 2019, arXiv:1905.04899).

    Labels are mixed by the area that the box covers after it was cut at the image's border.
    """
    height, width = images.shape[1:3]
    side = float(np.sqrt(1 - share))
    row, column = int(generator.integers(height)), int(generator.integers(width))
    half_height, half_width = round(height * side / 2), round(width * side / 2)
    top, bottom = max(0, row - half_height), min(height, row + half_height)
    left, right = max(0, column - half_width), min(width, column + half_width)
    x = to_input(images)
    x[:, :, top:bottom, left:right] = to_input(partners(images[:, top:bottom, left:right]))
    kept = 1 - (bottom - top) * (right - left) / (height * width)
    return x, y * kept + partners(y) * (1 - kept)

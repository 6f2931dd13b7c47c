"""Training augmentation of one image, the only module that touches albumentations.

What happens to an image depends on its key alone (seed, epoch, image, draw), not on workers or order: all transforms
share one pair of generators that is re-seeded for every image. (Compose.set_random_seed would give each transform its
own copy of one stream, so that all transforms of equal p fire together.)

The order is: crop; albumentations (affine, blur, distortion, color, noise, extra); flips and turns; erasing. The first
two happen here, pixel by pixel on the CPU. The others are only drawn here, from the image's own stream, and done to
whole batches where the model is (training/device_transforms.py).
"""

import hashlib
import math
import random
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import albumentations as A
import numpy as np

from foldsmith.config.schema import Affine, Augmentations, Erase, RectCrop
from foldsmith.data.images import BORDERS, Geometry, Image
from foldsmith.errors import UserError

AFFINE = {
    "soft": Affine(shift=0.075, scale=[0.85, 1.15], rotate=10, prob=0.75),
    "medium": Affine(shift=0.0625, scale=[0.8, 1.2], rotate=45, prob=0.2),
    "hard": Affine(shift=0.0625, scale=[0.5, 1.5], rotate=45, prob=0.75),
}


class Moves(NamedTuple):
    """What is still to be done to an image: flips, then quarter turns counter-clockwise, then a box to erase."""

    hflip: int = 0
    vflip: int = 0
    turns: int = 0
    top: int = 0
    bottom: int = 0  # of the box, exclusive; 0: no box
    left: int = 0
    right: int = 0


class Augment:
    """Image of any size -> uint8 (height, width, 3), and the moves that are left for the device."""

    def __init__(self, options: Augmentations, geometry: Geometry) -> None:
        self.options = options
        self.geometry = geometry
        self.numpy_random = np.random.Generator(np.random.PCG64(0))
        self.python_random = random.Random(0)
        transforms = build_transforms(options, geometry.pad)
        self.transforms = A.Compose(transforms, p=1.0) if transforms else None
        if self.transforms is not None:
            self.transforms.set_random_state(self.numpy_random, self.python_random)

    def __call__(self, image: Image, key: Sequence[int]) -> tuple[Image, Moves]:
        """Augment one image. `key` are the non-negative numbers that all randomness comes from.

        The result may be a view of `image`.
        """
        python_seed = self._seed(key)
        options, generator = self.options, self.numpy_random
        if options.rect_crop is not None:
            image = rect_crop(image, options.rect_crop, self.geometry, generator)
        else:
            image = self._crop(self.geometry.canvas(image, options.crop_jitter))
        if options.global_prob < 1 and generator.random() >= options.global_prob:
            return image, Moves()
        moves = self._draw_moves()
        if self.transforms is not None:
            self.python_random.seed(python_seed)
            image = self._transformed(image.copy())  # some write into it
        return image, moves

    def _draw_moves(self) -> Moves:
        options, generator = self.options, self.numpy_random
        hflip = options.hflip and generator.random() < 0.5
        vflip = options.vflip and generator.random() < 0.5
        turns = int(4 * generator.random()) if options.rotate90 else 0  # 0, 90, 180, 270 degrees: a quarter each
        box = (0, 0, 0, 0)
        if options.erase is not None and generator.random() < options.erase.prob:
            box = erase_box(options.erase, self.geometry.height, self.geometry.width, generator)
        return Moves(int(hflip), int(vflip), turns, *box)

    def _transformed(self, image: Image) -> Image:
        assert self.transforms is not None
        result = self.transforms(image=image)["image"]
        if result.shape != image.shape or result.dtype != image.dtype:
            raise UserError(
                f"the transforms made {result.dtype} {tuple(result.shape)} of {image.dtype} {image.shape}",
                key="augmentations",
                hint="leave out what changes the size or the type",
            )
        return result

    def _seed(self, key: Sequence[int]) -> int:
        """Seed the numpy generator; returns a seed for the other, which few images need.

        A hash, since numpy's SeedSequence takes longer than all else that happens to an image that is only cropped.
        """
        digest = hashlib.blake2b(struct.pack(f"<{len(key)}Q", *key), digest_size=48).digest()
        state, increment = int.from_bytes(digest[:16], "little"), int.from_bytes(digest[16:32], "little") | 1
        self.numpy_random.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }
        return int.from_bytes(digest[32:], "little")

    def _crop(self, canvas: Image) -> Image:
        height, width = self.geometry.height, self.geometry.width
        top = int((canvas.shape[0] - height + 1) * self.numpy_random.random())
        left = int((canvas.shape[1] - width + 1) * self.numpy_random.random())
        return canvas[top : top + height, left : left + width]


def build_transforms(options: Augmentations, pad: str) -> list[Any]:
    """The albumentations transforms of a config: presets in a fixed order, then `extra` in its own."""
    mode, value = BORDERS[pad]
    border = {"border_mode": mode, "fill": value}
    transforms: list[Any] = []
    if options.affine:
        affine = AFFINE[options.affine] if isinstance(options.affine, str) else options.affine
        transforms.append(
            A.Affine(
                translate_percent=(-affine.shift, affine.shift),
                scale=(affine.scale[0], affine.scale[1]),
                rotate=(-affine.rotate, affine.rotate),
                keep_ratio=True,
                p=affine.prob,
                **border,
            )
        )
    if options.blur:
        transforms.append(A.OneOf([A.MotionBlur(), A.MedianBlur(blur_limit=3), A.Blur(blur_limit=3)], p=options.blur))
    if options.distortion:
        lenses = [A.OpticalDistortion(**border), A.GridDistortion(distort_limit=0.1, **border)]
        transforms.append(A.OneOf(lenses, p=options.distortion))
    if options.color:
        colors = [A.CLAHE(clip_limit=2), A.Sharpen(), A.RandomBrightnessContrast(), A.HueSaturationValue()]
        transforms.append(A.OneOf(colors, p=options.color))
    if options.noise:
        transforms.append(A.OneOf([A.GaussNoise(std_range=(0.012, 0.03)), A.ISONoise()], p=options.noise))
    return transforms + [getattr(A, extra.name)(**extra.params) for extra in options.extra]


def rect_crop(image: Image, options: RectCrop, geometry: Geometry, generator: np.random.Generator) -> Image:
    """Cut a random rectangle of native pixels and squeeze it to the geometry's height x width.

    The side along the image's longer one is input_size / ratio, the other one input_size, divided by a ratio of its own
    where scale_both_dims asks for it. No side is longer than the image's.
    """
    cut = [geometry.height, geometry.width]
    height, width = image.shape[:2]
    along = int(generator.integers(2)) if height == width else int(width > height)
    for side in (along, 1 - along) if options.scale_both_dims else (along,):
        cut[side] = round(cut[side] / generator.uniform(options.min_ratio, options.max_ratio))
    cut = [min(cut[0], height), min(cut[1], width)]
    top, left = (
        int(generator.integers(0, length - part + 1)) for length, part in zip((height, width), cut, strict=True)
    )
    squeeze = Geometry("squash", geometry.pad, geometry.height, geometry.width)
    return np.ascontiguousarray(squeeze.canvas(image[top : top + cut[0], left : left + cut[1]]))


def erase_box(options: Erase, height: int, width: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right (ends exclusive) of a random rectangle; zeros when ten draws fit none."""
    low, high = (math.log(ratio) for ratio in options.ratio)
    for _ in range(10):
        area = (options.area[0] + (options.area[1] - options.area[0]) * generator.random()) * height * width
        ratio = math.exp(low + (high - low) * generator.random())
        down, right = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < down < height and 0 < right < width:
            top = int((height - down + 1) * generator.random())
            left = int((width - right + 1) * generator.random())
            return top, top + down, left, left + right
    return 0, 0, 0, 0


def transform_class(name: str) -> type | None:
    """The albumentations transform of that name, or None."""
    found = getattr(A, name, None)
    is_transform = isinstance(found, type) and issubclass(found, A.BasicTransform) and name in transform_names()
    return found if is_transform else None


def try_transform(transform: type, height: int, width: int, /, **params: Any) -> None:
    """Build a transform and apply it to an image of noise; raises when it can't be used on images of that size."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    result = transform(**params)(force_apply=True, image=image)["image"]
    if result.shape != image.shape or result.dtype != image.dtype:
        raise ValueError(
            f"it makes {result.dtype} {result.shape} of uint8 {image.shape}; size and type must stay as they are"
        )


def transform_names() -> list[str]:
    """Names that `augmentations.extra` may use."""
    return sorted(
        name
        for name, value in vars(A).items()
        if isinstance(value, type)
        and issubclass(value, A.ImageOnlyTransform | A.DualTransform)
        and value.__module__.startswith("albumentations.augmentations.")
    )

"""Training augmentation, the only module that touches albumentations.

What happens to an image depends on its key alone (seed, epoch, image, draw), not on workers or order: all transforms
share one pair of generators that is re-seeded for every image. (Compose.set_random_seed would give each transform its
own copy of one stream, so that all transforms of equal p fire together.)
"""

import random
from collections.abc import Sequence
from typing import Any

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


class Augment:
    """Image of any size -> augmented uint8 (height, width, 3)."""

    def __init__(self, options: Augmentations, geometry: Geometry) -> None:
        self.geometry = geometry
        self.jitter = options.crop_jitter
        self.rect_crop = options.rect_crop
        self.erase = options.erase
        self.global_prob = options.global_prob
        self.numpy_random = np.random.Generator(np.random.PCG64(0))
        self.python_random = random.Random(0)
        self.transforms = A.Compose(build_transforms(options, geometry.pad), p=1.0)
        self.transforms.set_random_state(self.numpy_random, self.python_random)

    def __call__(self, image: Image, key: Sequence[int]) -> Image:
        """Augment one image. `key` are the non-negative numbers that all randomness comes from."""
        self._seed(key)
        if self.rect_crop is not None:
            image = rect_crop(image, self.rect_crop, self.geometry, self.numpy_random)
        else:
            image = self._crop(self.geometry.canvas(image, self.jitter))
        if self.global_prob < 1 and self.numpy_random.random() >= self.global_prob:
            return image
        image = self._transformed(image)
        if self.erase is not None and self.numpy_random.random() < self.erase.prob:
            image = erase(image, self.erase, self.numpy_random)
        return image

    def _transformed(self, image: Image) -> Image:
        result = self.transforms(image=image)["image"]
        if result.shape != image.shape or result.dtype != image.dtype:
            raise UserError(
                f"the transforms made {result.dtype} {tuple(result.shape)} of {image.dtype} {image.shape}",
                key="augmentations",
                hint="leave out what changes the size or the type; rotate90 needs a square model.input_size",
            )
        return result

    def _seed(self, key: Sequence[int]) -> None:
        words = np.random.SeedSequence(key).generate_state(4, np.uint64)
        self.numpy_random.bit_generator.state = np.random.PCG64(int(words[0]) << 64 | int(words[1])).state
        self.python_random.seed(int(words[2]) << 64 | int(words[3]))

    def _crop(self, canvas: Image) -> Image:
        height, width = self.geometry.height, self.geometry.width
        top = int(self.numpy_random.integers(0, canvas.shape[0] - height + 1))
        left = int(self.numpy_random.integers(0, canvas.shape[1] - width + 1))
        return np.ascontiguousarray(canvas[top : top + height, left : left + width])


def build_transforms(options: Augmentations, pad: str) -> list[Any]:
    """The albumentations transforms of a config: presets in a fixed order, then `extra` in its own."""
    mode, value = BORDERS[pad]
    border = {"border_mode": mode, "fill": value}
    transforms: list[Any] = []
    if options.hflip:
        transforms.append(A.HorizontalFlip(p=0.5))
    if options.vflip:
        transforms.append(A.VerticalFlip(p=0.5))
    if options.rotate90:
        transforms.append(A.RandomRotate90(p=0.75))  # 0, 90, 180, 270 degrees: a quarter each
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


def erase(image: Image, options: Erase, generator: np.random.Generator) -> Image:
    """Fill a random rectangle with the image's mean colour; unchanged when ten draws fit no rectangle."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = generator.uniform(options.area[0], options.area[1]) * height * width
        ratio = np.exp(generator.uniform(np.log(options.ratio[0]), np.log(options.ratio[1])))
        down, right = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < down < height and 0 < right < width:
            top, left = generator.integers(0, height - down + 1), generator.integers(0, width - right + 1)
            image = image.copy()
            image[top : top + down, left : left + right] = image.mean(axis=(0, 1)).round()
            return image
    return image


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
